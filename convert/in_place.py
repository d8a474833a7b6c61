"""A Hugging Face folder whose vocabulary changes where it is: new files for what changes, hard links for the rest.

The folder is put together beside the old one and takes its place at the end, as any output does. A hard link is a
second name of the same bytes: weights that do not change are neither read nor written.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_convert.convert.architecture import Role, Weight
from llama_convert.convert.aside import write_side_files
from llama_convert.convert.certificate import certificate, kept_entries, write_certificate
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.slices import Scaled, TensorFile
from llama_convert.convert.conversion import Conversion, options_record, write_files
from llama_convert.convert.errors import UsageError
from llama_convert.convert.expressions import nbytes
from llama_convert.convert.formats.huggingface_weights import safetensors_file
from llama_convert.convert.integrity import Checks
from llama_convert.convert.json_files import json_file, read_object
from llama_convert.convert.outputs import SideFile, WeightFile
from llama_convert.convert.plan import Plan
from llama_convert.convert.publish import check_space, staged
from llama_convert.convert.run import Moved

_FORMATS = ("hf", "mlx")
_CONFIG, _GENERATION, _INDEX = "config.json", "generation_config.json", "model.safetensors.index.json"
_CERTIFICATE = "conversion.json"
_PATCHED = (_CONFIG, _GENERATION, _INDEX)


def in_place(plan: Plan) -> Plan:
    """The plan that rewrites only what changes in the source's own folder; the rest is not in it.

    plan: one whose source has a change, to its own format. Raises UsageError: another format than Hugging Face's,
    another type, weights that cannot be written as they lie there.
    """
    _check(plan)
    files = _changed_files(plan)
    kept = [file for file in plan.side_files if file.name not in _PATCHED]
    return replace(plan, files=files, side_files=(*_patches(plan, files), *kept))


def _check(plan: Plan) -> None:
    source = plan.source
    problem = next(_problems(plan), None)
    if problem:
        raise UsageError(f"{source.path}: --in-place: {problem}", advice="Leave it out, and give a folder to write.")


def _problems(plan: Plan) -> Iterator[str]:
    source, request = plan.source, plan.request
    if source.format.name not in _FORMATS or plan.target != source.format.name:
        yield f"is for Hugging Face folders that stay such; this is {source.format.name} to {plan.target}"
    if request.dtype or request.shard_size:
        yield "--dtype and --shard-size change every file"
    if not _resizes(source):
        return
    if any(file.path.suffix != ".safetensors" for file in source.files):
        yield "more or fewer rows can be written into safetensors files alone"
    if any(isinstance(piece, Scaled) for parts in source.parts.values() for piece in parts.pieces):
        yield "the weights are quantised"


def _resizes(source: Checkpoint) -> bool:
    return source.config.vocab_size != source.rows


def _changed_files(plan: Plan) -> tuple[WeightFile, ...]:
    """The files that hold embedding or head, with the tensors that they have now."""
    source = plan.source
    if not _resizes(source):
        return ()
    changed = {source.format.name_of(Weight(role)) for role in (Role.TOKENS, Role.HEAD)}
    made = {step.name: step.tensor for step in plan.steps}
    return tuple(
        safetensors_file(file.path.name, [made[name] for name in file.tensors if name in made], _mark(file))
        for file in source.files
        if changed & set(file.tensors)
    )


def _mark(file: TensorFile) -> str:
    return (file.metadata or {}).get("format", "pt")


def _patches(plan: Plan, files: Iterable[WeightFile]) -> list[SideFile]:
    """The JSON files in which single values change; everything else in them stays as it is."""
    source, folder = plan.source, plan.source.folder
    change = source.change
    pad = {} if change is None or change.pad is None else {"pad_token_id": change.pad}
    # A stored head changes apart from the embedding: the config must not call the two one.
    config = pad | {"vocab_size": source.config.vocab_size, "tie_word_embeddings": source.config.tied}
    found = [json_file(_CONFIG, read_object(folder / _CONFIG) | config)]
    if (folder / _GENERATION).is_file():
        found.append(json_file(_GENERATION, read_object(folder / _GENERATION) | pad))
    if (folder / _INDEX).is_file() and any(files):
        found.append(json_file(_INDEX, _index(plan)))
    return found


def _index(plan: Plan) -> dict[str, Any]:
    """The index with the sizes that the tensors will have."""
    values = read_object(plan.source.folder / _INDEX)
    sizes = [(nbytes(step.expression), step.expression.dtype.nbytes) for step in plan.steps]
    totals = {
        "total_size": sum(size for size, _ in sizes),
        "total_parameters": sum(size // width for size, width in sizes),
    }
    metadata = values.get("metadata")
    told = metadata if isinstance(metadata, dict) else {}
    return values | {"metadata": told | {name: total for name, total in totals.items() if name in told}}


def rewrite(plan: Plan, *, check: bool = True, on_progress: Callable[[Moved], None] = lambda moved: None) -> Conversion:
    """Carry out a plan of `in_place`; the folder is as it was until everything is written and synced.

    Raises what writing raises, and UsageError where the disk has no hard links.
    """
    folder = plan.source.path.resolve()
    check_space(folder, plan.nbytes)
    with staged(folder) as partial, Checks(plan.source, enabled=check) as checks:
        written = [*(file.name for file in plan.files), *(file.name for file in plan.side_files)]
        _link_all(folder, partial, {_CERTIFICATE, *written})
        if plan.files:
            unusual, crc32s = write_files(plan, partial, checks, on_progress)
        else:
            unusual, crc32s = (), {}
            write_side_files(plan.side_files, partial)
        records = checks.finish()
        _link_equal(folder, partial, plan.side_files)
        kept = kept_entries(folder, {file.path.name for file in plan.source.files} - set(written))
        options = {**options_record(plan, check), "in_place": True}
        write_certificate(partial, certificate(plan, options, records, crc32s, partial, kept))
    return Conversion(folder=plan.source.path, plan=plan, records_checked=records, unusual=unusual)


def _link_all(folder: Path, partial: Path, without: set[str]) -> None:
    """Every file of the folder under the same name, but for those that will be written."""
    shutil.copymode(folder, partial)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_dir() and not path.is_symlink():
            (partial / name).mkdir()
            shutil.copymode(path, partial / name)
        elif str(name) not in without:
            _link(path, partial / name)


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target, follow_symlinks=False)
    except OSError as error:
        raise UsageError(
            f"{path}: --in-place: a hard link to it cannot be made here ({error.strerror})",
            advice="Leave it out, and give a folder to write.",
        ) from error


def _link_equal(folder: Path, partial: Path, files: Iterable[SideFile]) -> None:
    """What was written and says what the old file says becomes that file."""
    for file in files:
        old, new = folder / file.name, partial / file.name
        if old.is_file() and _says_the_same(old, new):
            new.unlink()
            _link(old, new)


def _says_the_same(old: Path, new: Path) -> bool:
    before, after = old.read_bytes(), new.read_bytes()
    if before == after or old.suffix != ".json":
        return before == after
    try:
        return bool(json.loads(before) == json.loads(after))
    except ValueError:
        return False
