"""What a library that can run a checkpoint is, and what it answers."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.slices import Scaled
from llama_convert.convert.errors import UsageError
from llama_convert.verify.prompts import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a library makes of one prompt.

    at: the places in the prompt that it was asked about, rising. scores: (places, vocab), float32: logits, or
    log-probabilities where the library tells no more, -inf those that it does not tell.
    """

    at: tuple[int, ...]
    scores: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A library, declared.

    name: as on the command line. module: what must be importable. package: whose version is told; install: the
    command for it. reads: names of formats; quantised: whether their quantised variants too.
    furthest: the last position to ask about in a prompt with gaps; None where it runs no gaps.
    log_probabilities: it tells no logits, only these. exact: whether it computes these files in float32.
    answers: one for each prompt, in order. Whatever it raises is taken for a refusal of the files.
    """

    name: str
    module: str
    package: str
    install: str
    reads: tuple[str, ...]
    quantised: bool = False
    furthest: int | None = None
    log_probabilities: bool = False
    exact: Callable[[Checkpoint], bool] = field(default=lambda checkpoint: True, repr=False)
    answers: Callable[[Checkpoint, Sequence[Prompt]], Iterator[Answer]] = field(repr=False)

    def require(self) -> str:
        """Its version, once it is imported; UsageError where it is not installed."""
        try:
            importlib.import_module(self.module)
        except ImportError as error:
            raise UsageError(
                f"{self.name} cannot be asked: {_one_line(error)}", advice=f"Install it: {self.install}."
            ) from error
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return "of an unknown version"

    def fit(self, checkpoint: Checkpoint) -> None:
        """UsageError where the library does not read such files."""
        path, form = checkpoint.path, checkpoint.format.name
        advice = f"Convert first: llama-convert convert {path} DST --to {self.reads[0]}."
        if form not in self.reads:
            raise UsageError(f"{path} is of format {form}; {self.name} reads {' and '.join(self.reads)}", advice=advice)
        if not self.quantised and is_quantised(checkpoint):
            raise UsageError(f"{path} is quantised; {self.name} is asked about whole weights only", advice=advice)

    def askable(self, prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
        """The prompts that it can run, each as far as it is to be asked."""
        return tuple(
            prompt if is_consecutive(prompt) else _until(prompt, self.furthest)
            for prompt in prompts
            if is_consecutive(prompt) or self.furthest is not None
        )


def is_quantised(checkpoint: Checkpoint) -> bool:
    """Whether some weights are stored as codes and scales."""
    pieces = (piece for parts in checkpoint.parts.values() for piece in parts.pieces)
    return any(isinstance(piece, Scaled) or piece.dtype.block > 1 for piece in pieces)


def is_consecutive(prompt: Prompt) -> bool:
    """Whether its positions have no gaps."""
    return prompt.positions == tuple(range(len(prompt.positions)))


def _until(prompt: Prompt, furthest: int | None) -> Prompt:
    count = sum(furthest is None or position <= furthest for position in prompt.positions)
    return replace(prompt, tokens=prompt.tokens[:count], positions=prompt.positions[:count])


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
