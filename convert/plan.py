"""What a conversion will do: for every output tensor what it is made of and where its bytes will lie.

Pure data, made from headers and shapes alone: it can be printed, counted and compared before a byte moves.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llama_convert.convert.architecture import ROTARY_ROLES, Rotary, Weight, weights
from llama_convert.convert.blocks import BLOCK_BYTES, row_bytes
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.errors import UsageError
from llama_convert.convert.expressions import Cast, Expression, RotaryOrder, describe, nbytes, runs

if TYPE_CHECKING:
    from llama_convert.convert.formats.format import Format

# Threads that move bytes. More gain nothing: two saturate most disks, four the memory of a workstation.
WORKERS = min(4, os.cpu_count() or 1)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "original/tokenizer.model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user wants of the output; everything else the files decide.

    dtype: None keeps the source's. shard_size: bytes a weight file may have; a larger tensor gets its own.
    instruct: the weights are of a chat model: end tokens and chat template follow.
    special_tokens: names in the order of their ids, instead of the version's own.
    """

    dtype: DType | None = None
    shard_size: int = 5_000_000_000
    instruct: bool = False
    special_tokens: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One output tensor: its name, what it is made of, and the byte at which it starts in its file."""

    weight: Weight
    name: str
    expression: Expression
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the output tensor."""
        return nbytes(self.expression)


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file of weights to be: the header and the steps fill its `size` bytes exactly."""

    name: str
    header: bytes
    steps: tuple[Step, ...]
    size: int


@dataclass(frozen=True, slots=True)
class SideFile:
    """A small file beside the weights: config, tokenizer. `write` makes it at the path it is given."""

    name: str
    write: Callable[[Path], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole conversion. notes: what the user should know of the output, one sentence each."""

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
        """Bytes of working memory the run needs beyond the interpreter's own: a few blocks a thread."""
        rows = (row_bytes(step.expression) for step in self.steps if runs(step.expression) is None)
        return WORKERS * 4 * max(BLOCK_BYTES, *rows, 0)


def make_plan(source: Checkpoint, target: Format, request: Request) -> Plan:
    """The plan that turns the checkpoint into the target format.

    Raises UsageError where the target cannot be written, and what the target's own files raise: a missing
    or foreign tokenizer, special tokens that do not fit.
    """
    if target.writer is None:
        raise UsageError(f"{target.title} ({target.name}) can be read but not written yet", advice="Convert to hf.")
    made = expressions(source, target.rotary, request.dtype)
    side_files, notes = target.writer.side_files(source, request)
    files, index = target.writer.lay_out(
        [(weight, target.name_of(weight), expression) for weight, expression in made.items()], request.shard_size
    )
    return Plan(
        source=source,
        target=target.name,
        request=request,
        files=files,
        side_files=(*index, *side_files),
        notes=notes,
    )


def expressions(source: Checkpoint, rotary: Rotary, dtype: DType | None) -> dict[Weight, Expression]:
    """What each weight of the model is made of in a target with this rotary order and dtype."""
    return {weight: _expression(source, weight, rotary, dtype) for weight in weights(source.config)}


def _expression(source: Checkpoint, weight: Weight, rotary: Rotary, dtype: DType | None) -> Expression:
    expression = source.weight(weight)
    if weight.role in ROTARY_ROLES and source.format.rotary is not rotary:
        expression = RotaryOrder(expression, source.config.head_dim, rotary)
    if dtype is not None and expression.dtype is not dtype:
        expression = Cast(expression, dtype)
    return expression
