"""torchtune's format: its own state dict in one file, and the arguments of its builder in `torchtune_config.json`.

torchtune keeps sizes in its recipes, not beside the weights: that file is ours, in the words of such a recipe.
Sources: torchtune 0.6.1 models/convert_weights.py (names), modules/tied_linear.py (no head of its own),
training/checkpointing (FullModelTorchTuneCheckpointer, which reads one file).
"""

from __future__ import annotations

from pathlib import Path

from llama_convert.convert.architecture import Role, Rotary, Weight
from llama_convert.convert.assembly import assemble
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.pth import read_pth
from llama_convert.convert.containers.safetensors import read_safetensors
from llama_convert.convert.containers.slices import TensorFile
from llama_convert.convert.containers.sources import byte_source
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.format import Assertions, Format, Head
from llama_convert.convert.formats.pth_files import pth_file
from llama_convert.convert.formats.tokenizer_files import find_tokenizer_model, tokenizer_model_files
from llama_convert.convert.formats.torchtune_config import ARGUMENTS, CONFIG, config_json, read_config
from llama_convert.convert.json_files import json_file
from llama_convert.convert.outputs import Output, Request
from llama_convert.convert.plan import tensors
from llama_convert.convert.tokens import open_tokens
from llama_convert.convert.versions import confirm, evidence_of

_READERS = {".pth": read_pth, ".pt": read_pth, ".safetensors": read_safetensors}
# Of a name that no other format has.
_TELLING = "layers.0.sa_norm.scale"


def recognises(path: Path) -> bool:
    """Whether here are the builder's arguments, or a weight file with torchtune's names."""
    files = _weight_files(path)
    told = (_folder(path) / CONFIG).is_file() and (path.is_dir() or bool(files))
    return told or any(_has_names(file) for file in files)


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _weight_files(path: Path) -> list[Path]:
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    return [file for file in found if file.suffix in _READERS and file.is_file()]


def _has_names(file: Path) -> bool:
    try:
        return _TELLING in _READERS[file.suffix](byte_source(file)).tensors
    except CheckpointError:  # whose file it is cannot be told from it
        return False


def open_torchtune(form: Format, path: Path, assertions: Assertions) -> Checkpoint:
    """The checkpoint in one file of torchtune's, or in the folder that holds one such file.

    Raises CheckpointError: no weights or several files of them, sizes that are nowhere, missing, unknown or
    misshapen tensors.
    """
    file = _open_weights(path)
    config = read_config(_folder(path), assertions.assumed, stored_head=form.names[Role.HEAD] in file.tensors)
    parts = assemble(form, path, [file], config, said_by=CONFIG)
    return Checkpoint(
        path=path,
        format=form,
        config=config,
        versions=confirm(assertions.llama_version, evidence_of(config)),
        parts=parts,
        files=(file,),
        tokenizer=find_tokenizer_model(_folder(path)),
        dtype=parts[Weight(Role.TOKENS)].whole().dtype,
        rotary=form.rotary,
    )


def _open_weights(path: Path) -> TensorFile:
    paths = _weight_files(path)
    if len(paths) != 1:
        raise CheckpointError(
            f"{path}: holds {len(paths) or 'no'} weight files ({', '.join(_READERS)}), wanted one",
            problems=[found.name for found in paths],
            advice="Give the file of the model itself." if paths else "Put the weights beside the config.",
        )
    return _READERS[paths[0].suffix](byte_source(paths[0]))


def write_torchtune(form: Format, source: Checkpoint, request: Request) -> Output:
    """The checkpoint as `torchtune.pth` with its config and Meta's tokenizer.model.

    Raises UsageError where no builder of torchtune's makes such a model.
    """
    config = config_json(source.config, source.version)
    tokenizer, notes = tokenizer_model_files(source, open_tokens(source, request))
    return Output(
        files=(pth_file("torchtune.pth", tensors(source, form, request)),),
        side_files=(json_file(CONFIG, config), *tokenizer),
        notes=notes,
    )


TORCHTUNE = Format(
    name="torchtune",
    title="torchtune state dict",
    rotary=Rotary.PAIRS,
    head=Head.OMITTED,
    names={
        Role.TOKENS: "tok_embeddings.weight",
        Role.ATTENTION_NORM: "layers.{layer}.sa_norm.scale",
        Role.QUERY: "layers.{layer}.attn.q_proj.weight",
        Role.KEY: "layers.{layer}.attn.k_proj.weight",
        Role.VALUE: "layers.{layer}.attn.v_proj.weight",
        Role.ATTENTION_OUT: "layers.{layer}.attn.output_proj.weight",
        Role.FFN_NORM: "layers.{layer}.mlp_norm.scale",
        Role.GATE: "layers.{layer}.mlp.w1.weight",
        Role.UP: "layers.{layer}.mlp.w3.weight",
        Role.DOWN: "layers.{layer}.mlp.w2.weight",
        Role.FINAL_NORM: "norm.scale",
        Role.HEAD: "output.weight",
    },
    recognises=recognises,
    opener=open_torchtune,
    writer=write_torchtune,
    assumable=ARGUMENTS,
)
