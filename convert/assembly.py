"""Named tensors made into the weights of a model: what is missing, unknown or misshapen is said at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from llama_convert.convert.architecture import NORM_ROLES, LlamaConfig, Weight, weights
from llama_convert.convert.arithmetic import cast
from llama_convert.convert.blocks import OpenFiles, read
from llama_convert.convert.checkpoint import Parts
from llama_convert.convert.containers.slices import FLOATS, DType, Scaled, TensorFile, TensorSlice
from llama_convert.convert.containers.sources import is_spared
from llama_convert.convert.errors import CheckpointError, counted
from llama_convert.convert.expressions import Stored
from llama_convert.convert.format import Format

Piece = TensorSlice | Scaled


def assemble(
    form: Format,
    path: Path,
    files: Sequence[TensorFile],
    config: LlamaConfig,
    *,
    said_by: str,
    dtypes: Sequence[DType] = FLOATS,
    scaled: Mapping[str, Scaled] | None = None,
) -> dict[Weight, Parts]:
    """Every weight of the model with the piece that holds it; a head wherever `config` is not tied.

    said_by: what the sizes in `config` are from, for messages. dtypes: the types that weights may have.
    scaled: matrices put together from several tensors, by name; their own parts are not among `files`.
    Raises CheckpointError: tensors that are missing, unknown, twice there, of another shape or type.
    """
    found: dict[str, Piece] = {name: tensor for file in files for name, tensor in file.tensors.items()}
    found |= scaled or {}
    expected = _expected(form, config)
    problems = [
        *(f"twice    {name}" for name in _twice(files)),
        *(f"missing  {name}" for name in expected if name not in found),
        *(f"unknown  {name}" for name in found if name not in expected and not form.ignores(name)),
        *_misfits(found, expected, config, said_by, dtypes),
    ]
    if problems:
        raise CheckpointError(
            f"{path}: this is no complete {form.name} checkpoint ({counted(len(problems), 'problem')})",
            problems=problems,
            advice="Are all files there, and all of the same model?",
        )
    return {
        weight: Parts((piece,), None)
        for name, sharing in expected.items()
        for weight, piece in _split(found[name], sharing, config)
    }


def _expected(form: Format, config: LlamaConfig) -> dict[str, list[Weight]]:
    expected: dict[str, list[Weight]] = {}
    for weight in weights(config):
        expected.setdefault(form.name_of(weight), []).append(weight)
    return expected


def _twice(files: Sequence[TensorFile]) -> list[str]:
    return [name for name, count in Counter(name for file in files for name in file.tensors).items() if count > 1]


def _shape(sharing: Sequence[Weight], config: LlamaConfig) -> tuple[int, ...]:
    rows = sum(config.shape(weight.role)[0] for weight in sharing)
    return (rows, *config.shape(sharing[0].role)[1:])


def _misfits(
    found: Mapping[str, Piece],
    expected: Mapping[str, Sequence[Weight]],
    config: LlamaConfig,
    said_by: str,
    dtypes: Sequence[DType],
) -> Iterator[str]:
    for name, sharing in expected.items():
        piece, wanted = found.get(name), _shape(sharing, config)
        if piece is None:
            continue
        if piece.shape != wanted:
            yield f"shape    {name}: the file has {piece.shape}, {said_by} says {wanted}"
        if isinstance(piece, TensorSlice) and piece.dtype not in dtypes:
            yield f"dtype    {name} is {piece.dtype.label}, wanted {' or '.join(dtype.label for dtype in FLOATS)}"


def _split(piece: Piece, sharing: Sequence[Weight], config: LlamaConfig) -> Iterator[tuple[Weight, Piece]]:
    if len(sharing) == 1:
        yield sharing[0], piece
        return
    start = 0
    for weight in sharing:
        stop = start + config.shape(weight.role)[0]
        yield weight, piece.rows(start, stop)
        start = stop


def untied(config: LlamaConfig) -> LlamaConfig:
    """The same sizes with a head of its own: what a format that always stores one is checked against."""
    return replace(config, tied=False)


def widened_norms(parts: Mapping[Weight, Parts], dtype: DType) -> frozenset[Weight]:
    """The norms that are stored in float32 and whose every value the narrower type holds exactly.

    Some formats store all norms in float32, whatever the model's type. Cost: the norms are read; those in files that
    are to be spared are not, and none of them counts: only a conversion needs to know.
    """
    norms = [weight for weight in parts if weight.role in NORM_ROLES and not is_spared(parts[weight].pieces[0].file)]
    with OpenFiles() as files:
        return frozenset(weight for weight in norms if _fits(parts[weight].pieces[0], dtype, files))


def _fits(piece: Piece, dtype: DType, files: OpenFiles) -> bool:
    if isinstance(piece, Scaled) or piece.dtype is not DType.FLOAT32 or dtype is DType.FLOAT32:
        return False
    values = read(Stored(piece), 0, prod(piece.shape), files)
    return np.array_equal(cast(cast(values, DType.FLOAT32, dtype), dtype, DType.FLOAT32), values)
