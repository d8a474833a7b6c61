"""The book's `.pth`: found by the names in it, opened, freed of what training and compiling put around names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from llama_convert.convert.architecture import LAYER_ROLES, NORM_ROLES, Role
from llama_convert.convert.containers.pth import read_pth
from llama_convert.convert.containers.slices import TensorFile, TensorSlice
from llama_convert.convert.containers.sources import byte_source
from llama_convert.convert.errors import CheckpointError, ForeignError, UsageError, counted
from llama_convert.convert.format import Format

_SUFFIXES = (".pth", ".pt")
# Where a training run keeps the state dict, beside that of its optimizer.
_NESTED = ("model_state_dict", "model", "state_dict")
# What torch.compile puts into the names of a module, and DataParallel before all of them.
_COMPILED, _PARALLEL = "_orig_mod", "module"
# Names that only the book's other models have.
_FOREIGN = {
    "pos_emb.weight": "the book's GPTModel (GPT-2)",
    "trf_blocks.0.att.q_norm.scale": "a model of the book with norms of queries, such as Qwen3Model",
}


def holds_scratch(form: Format, path: Path) -> bool:
    """Whether the file, or a file of the folder, has tensors with the book's names.

    So has, for our purposes, a lone .pth that cannot be read: opening it says why. Cost: the files' indexes.
    """
    paths = _paths(path)
    named = [_named(form, candidate) for candidate in paths]
    return True in named or (named == [None] and paths[0].suffix in _SUFFIXES)


def _paths(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(found for found in path.iterdir() if found.suffix in _SUFFIXES and found.is_file())


def _named(form: Format, path: Path) -> bool | None:
    """Whether names of the book are in the file; None where it cannot be read."""
    try:
        names = _cleaned(read_pth(byte_source(path), _NESTED)).tensors
    except CheckpointError:
        return None
    return any(weight.role in LAYER_ROLES for name in names for weight in form.weights_of(name))


def open_file(form: Format, path: Path) -> TensorFile:
    """The tensors of the file, or of the folder's only one, under the names that the book's class gives them.

    Raises UsageError: a folder with several. CheckpointError: a damaged file, another model of the book, one
    whose norms have vanished.
    """
    paths = _paths(path)
    if len(paths) > 1:
        paths = [candidate for candidate in paths if _named(form, candidate)]
    if len(paths) > 1:
        raise UsageError(
            f"{path}: holds {counted(len(paths), 'checkpoint')} of the book's",
            problems=[candidate.name for candidate in paths],
            advice=f"Give one of the files, such as {paths[0]}.",
        )
    file = _cleaned(read_pth(byte_source(paths[0]), _NESTED))
    _refuse_foreign(file)
    _refuse_without_norms(form, file)
    return file


def _cleaned(file: TensorFile) -> TensorFile:
    parallel = all(name.split(".")[0] == _PARALLEL for name in file.tensors)
    tensors: dict[str, TensorSlice] = {}
    for name, tensor in file.tensors.items():
        components = [component for component in name.split(".") if component != _COMPILED]
        plain = ".".join(components[1:] if parallel else components)
        if plain in tensors:
            raise CheckpointError(
                f"{file.path}: holds {plain} twice, as it is and as a compiled module's",
                advice="Save the state dict of one of the two modules.",
            )
        tensors[plain] = tensor
    return replace(file, tensors=tensors)


def _refuse_foreign(file: TensorFile) -> None:
    found = [model for name, model in _FOREIGN.items() if name in file.tensors]
    if found:
        raise ForeignError(
            f"{file.path}: this is {found[0]}, not a Llama",
            advice="Supported are the book's Llama 2 and Llama 3 classes.",
        )


def _refuse_without_norms(form: Format, file: TensorFile) -> None:
    """Nothing of the norms and all the rest: the trace of a known mistake, not of a damaged file."""
    roles = {weight.role for name in file.tensors for weight in form.weights_of(name)}
    if roles == set(Role) - set(NORM_ROLES):
        raise CheckpointError(
            f"{file.path}: holds no norm at all: with a default dtype other than float32 the book's RMSNorm "
            "makes plain tensors, which no state dict has",
            advice="The norms are lost to this file: create the model in float32, load it, and save it again.",
        )


def notes_on(file: TensorFile, leftovers: Mapping[str, TensorSlice]) -> tuple[str, ...]:
    """What was left out of the file, one sentence each."""
    found = []
    if file.beside:
        found.append(f"left out of {file.path.name}: {', '.join(file.beside)}, which are no weights.")
    if leftovers:
        kinds = sorted({name.split(".")[-1] for name in leftovers})
        found.append(
            f"left out of {file.path.name}: {counted(len(leftovers), 'buffer')} ({', '.join(kinds)}) "
            "that the class computes itself."
        )
    return tuple(found)
