"""All differences between two checkpoints, whatever their formats: config values, weights, tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llama_convert.convert import open_checkpoint
from llama_convert.verify.report import Verdict
from llama_convert.verify.structure import config_differences
from llama_convert.verify.tensors import TensorResult, compare_tensors
from llama_convert.verify.tokenizer import check_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """What differs, one line or one result each.

    weights: those that differ, of `compared`. explained: those that are only as far away as the quantised type
    makes them that they are stored in; no difference.
    """

    config: tuple[str, ...]
    weights: tuple[TensorResult, ...]
    explained: tuple[TensorResult, ...]
    compared: int
    tokenizer: tuple[str, ...]

    @property
    def none(self) -> bool:
        """Whether nothing differs."""
        return not (self.config or self.weights or self.tokenizer)


def differences(a: Path, b: Path, llama_version: str | None = None) -> Differences:
    """How B differs from A. Where B stores another type, its weights are held against A's rounded to that.

    Of quantised types that nothing can recompute, a weight differs where its error is more than the type explains.

    llama_version: what the user says both are. Raises what opening them raises.
    Cost: every weight of both read once. Memory: a few blocks of rows, the tokenizers.
    """
    first, second = open_checkpoint(a, llama_version), open_checkpoint(b, llama_version)
    results = list(compare_tensors(first, second))
    tokens = check_tokenizer(first, second)
    unchecked = (f"not compared: {tokens.figures}",) if tokens.verdict is Verdict.NOT_CHECKED else ()
    return Differences(
        config=tuple(line for _, line in config_differences(first.config, second.config)),
        weights=tuple(result for result in results if not result.right),
        explained=tuple(result for result in results if result.right and result.relative_error),
        compared=len(results),
        tokenizer=(*tokens.findings, *unchecked),
    )
