"""What a conversion will do: for every output tensor what it is made of and where its bytes will lie.

Pure data, made from headers and shapes alone: it can be printed, counted and compared before a byte moves.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llama_convert.convert.architecture import ROTARY_ROLES, Role, Weight, weights
from llama_convert.convert.blocks import BLOCK_BYTES, row_bytes
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.slices import FLOATS, DType, Scaled, TensorSlice
from llama_convert.convert.errors import UsageError
from llama_convert.convert.expressions import Expression, Joined, RotaryOrder, cast, describe, runs
from llama_convert.convert.format import Format, Head
from llama_convert.convert.outputs import Request, SideFile, Step, Tensor, WeightFile
from llama_convert.convert.vocabulary import Init

# Threads that move bytes. More gain nothing: two saturate most disks, four the memory of a workstation.
WORKERS = min(4, os.cpu_count() or 1)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "original/tokenizer.model")


# What only some formats have, as the user writes it.
_SOME_HAVE = {
    "shard_size": "--shard-size",
    "shards": "--shards",
    "quantize": "--quantize",
    "output_type": "--output-type",
    "embedding_type": "--embedding-type",
    "format_version": "--format-version",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole conversion. notes: what the user should know of the input and of the output."""

    source: Checkpoint
    target: str
    request: Request
    files: tuple[WeightFile, ...]
    side_files: tuple[SideFile, ...]
    notes: tuple[str, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps, file by file."""
        return tuple(step for file in self.files for step in file.steps)

    @property
    def nbytes(self) -> int:
        """Bytes of all weight files."""
        return sum(file.size for file in self.files)

    def work(self) -> dict[str, tuple[int, int]]:
        """For each kind of treatment (`copied`, `rotary order changed`, ...) the tensors and their bytes."""
        counts: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for step in self.steps:
            treatment = describe(step.expression)
            counts[treatment] += 1
            sizes[treatment] += step.nbytes
        return {treatment: (counts[treatment], sizes[treatment]) for treatment in counts}

    def tokenizer_only(self) -> Plan:
        """The same without weights: what is left are the tokenizer's files."""
        kept = tuple(file for file in self.side_files if file.name in _TOKENIZER_FILES)
        return replace(self, files=(), side_files=kept)

    def peak_memory(self) -> int:
        """Bytes of working memory the run needs beyond the interpreter's own: a few blocks a thread, random rows."""
        rows = (row_bytes(step.expression) for step in self.steps if runs(step.expression) is None)
        return WORKERS * 4 * max(BLOCK_BYTES, *rows, 0) + self._random_rows()

    def _random_rows(self) -> int:
        """Two sums in float64 for every element of embedding and head that is drawn; nothing else grows with them."""
        change = self.source.change
        if change is None:
            return 0
        drawn = [new for new in (change.embedding, change.head) if new.init is Init.NORMAL]
        count = max(change.rows - self.source.rows, 0)
        return len(drawn) * 2 * DType.FLOAT64.size(count * self.source.config.hidden_size)


def make_plan(source: Checkpoint, target: Format, request: Request) -> Plan:
    """The plan that turns the checkpoint into the target format.

    Raises UsageError where the target cannot be written, or has not what is asked for, and what the target's
    own files raise: a missing or foreign tokenizer, special tokens or sizes that do not fit.
    """
    _check_options(target, request)
    output = target.write(source, request)
    return Plan(
        source=source,
        target=target.name,
        request=request,
        files=output.files,
        side_files=output.side_files,
        notes=(*source.notes, *_rounding_note(source, request), *output.notes),
    )


def _check_options(target: Format, request: Request) -> None:
    foreign = [
        option
        for field, option in _SOME_HAVE.items()
        if getattr(request, field) is not None and field not in target.options
    ]
    if foreign:
        raise UsageError(
            f"{', '.join(foreign)}: {target.title} ({target.name}) has no such thing", advice="Leave it out."
        )


def is_quantised(source: Checkpoint) -> bool:
    """Whether some of its weights are stored as codes of a quantised type."""
    return bool(_quantised(source))


def _quantised(source: Checkpoint) -> set[str]:
    return {
        piece.dtype.label if isinstance(piece, TensorSlice) else piece.codes.dtype.label
        for parts in source.parts.values()
        for piece in parts.pieces
        if isinstance(piece, Scaled) or piece.dtype not in FLOATS
    }


def _rounding_note(source: Checkpoint, request: Request) -> list[str]:
    quantised = _quantised(source)
    if not quantised or request.dtype or request.quantize:
        return []
    return [
        f"the weights are quantised ({', '.join(sorted(quantised))}); where the target does not hold them as they "
        f"are, their values are rounded to {source.dtype.label}. --dtype float32 keeps them exactly."
    ]


def tensors(
    source: Checkpoint, target: Format, request: Request, dtype: Callable[[Weight], DType | None] = lambda weight: None
) -> list[Tensor]:
    """Every tensor of the target with what it is made of, in the order of the forward pass.

    A tied head is among them where the target gives it a name. dtype: the type the target stores a weight
    in; where it gives None, the request decides, or the source.
    """
    wanted = list(weights(source.config))
    if source.config.tied and target.head is Head.STORED:
        wanted.append(Weight(Role.HEAD))
    named: dict[str, list[Weight]] = {}
    for weight in wanted:
        named.setdefault(target.name_of(weight), []).append(weight)
    return [
        Tensor(tuple(sharing), name, _expression(source, sharing, target, request, dtype))
        for name, sharing in named.items()
    ]


def _expression(
    source: Checkpoint,
    sharing: Sequence[Weight],
    target: Format,
    request: Request,
    dtype: Callable[[Weight], DType | None],
) -> Expression:
    """What the tensor of these weights is made of; where their types differ, float32 holds all of them exactly."""
    parts = [_ordered(source, weight, target) for weight in sharing]
    types = {dtype(weight) or request.dtype or source.dtype_of(_stored(source, weight)) for weight in sharing}
    wanted = types.pop() if len(types) == 1 else DType.FLOAT32
    if len({part.dtype for part in parts}) > 1:
        parts = [cast(part, wanted) for part in parts]
    return cast(parts[0] if len(parts) == 1 else Joined(tuple(parts), 0), wanted)


def _ordered(source: Checkpoint, weight: Weight, target: Format) -> Expression:
    expression = source.weight(_stored(source, weight))
    if weight.role in ROTARY_ROLES and source.rotary is not target.rotary:
        return RotaryOrder(expression, source.config.head_dim, target.rotary)
    return expression


def _stored(source: Checkpoint, weight: Weight) -> Weight:
    """A tied head is the embedding, whether or not the source stores it a second time."""
    return Weight(Role.TOKENS) if weight.role is Role.HEAD and source.config.tied else weight
