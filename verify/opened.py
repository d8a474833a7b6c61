"""A checkpoint that is about to be loaded: everything of it but the weights, so that a refusal costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llama_convert.convert.architecture import Role, Weight
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.slices import DType, TensorSlice
from llama_convert.convert.errors import CheckpointError, UsageError
from llama_convert.convert.formats import open_checkpoint
from llama_convert.convert.formats.lone_tokenizer import tokenizer_file
from llama_convert.convert.quantisation import ENCODERS
from llama_convert.verify.devices import choose
from llama_convert.verify.judges import open_judge
from llama_convert.verify.model import Holding
from llama_convert.verify.reading import torch_type
from llama_convert.verify.speech import end_tokens, parse_ends
from llama_convert.verify.tokenizer_judges import Judge

_COMPUTED = {dtype.label: dtype for dtype in (DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A checkpoint and its tokenizer. ends: the ids at which it has no more to say. holding: how it will be held."""

    checkpoint: Checkpoint
    tokenizer: Judge
    ends: frozenset[int]
    holding: Holding

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with the begin token in front."""
        return self.tokenizer.encode([text])[0]


def open_source(
    source: str | Path,
    *,
    device: str = "auto",
    dtype: str | None = None,
    quantise: DType | None = None,
    tokenizer: Path | None = None,
    ends: Sequence[str] = (),
    llama_version: str | None = None,
) -> Opened:
    """The checkpoint in this folder or file, with its tokenizer.

    dtype: float32, bfloat16 or float16 to compute in; None for the model's own, or what its quantised matrices are
    multiplied in. quantise: Q4_0 or Q8_0, in which matrices are held then. tokenizer: a file to take for its own.
    ends: ids or names of tokens that end a text instead of the model's own.
    Raises UsageError: unknown names, or what does not go together. CheckpointError: what opening it raises.
    """
    check_options(device=device, dtype=dtype, quantise=quantise, tokenizer=tokenizer)
    checkpoint = _with_tokenizer(open_checkpoint(Path(source), llama_version), tokenizer)
    holding = _holding(checkpoint, choose(device).device, dtype, quantise)
    judge = open_judge(checkpoint)
    _check_fit(checkpoint, judge)
    found = parse_ends(ends, judge, checkpoint.config.vocab_size) if ends else end_tokens(checkpoint, judge)
    return Opened(checkpoint=checkpoint, tokenizer=judge, ends=found, holding=holding)


def check_options(*, device: str, dtype: str | None, quantise: DType | None, tokenizer: Path | None) -> None:
    """Refuse what no checkpoint can be opened with, before one is looked for; options, errors: of `open_source`."""
    place = choose(device).device
    if dtype is not None and dtype not in _COMPUTED:
        raise UsageError(f"Nothing computes in {dtype!r}", advice=f"Choose {', '.join(_COMPUTED)}.")
    if quantise is not None and (place != "cpu" or dtype not in (None, DType.BFLOAT16.label)):
        raise UsageError(
            f"{quantise.label} is multiplied in bfloat16 on a CPU, not in {dtype or 'bfloat16'} on {place}",
            advice="Leave the type to compute in away and add --device cpu, or do not quantise.",
        )
    if tokenizer is not None:
        tokenizer_file(tokenizer)


def open_tokenizer(
    source: Path, tokenizer: Path | None = None, llama_version: str | None = None
) -> tuple[Checkpoint, Judge]:
    """The checkpoint and its tokenizer, where no more is wanted of it."""
    checkpoint = _with_tokenizer(open_checkpoint(source, llama_version), tokenizer)
    return checkpoint, open_judge(checkpoint)


def _with_tokenizer(checkpoint: Checkpoint, path: Path | None) -> Checkpoint:
    own = checkpoint.tokenizer
    if path is None:
        if own is None:
            raise CheckpointError(
                f"{checkpoint.path}: no tokenizer",
                advice="Put its tokenizer beside the weights, or name the file with --tokenizer-path.",
            )
        return checkpoint
    found = tokenizer_file(path)
    said = found.conventions or (own.conventions if own else None)
    return replace(checkpoint, tokenizer=replace(found, conventions=said))


def _check_fit(checkpoint: Checkpoint, judge: Judge) -> None:
    """A tokenizer may have fewer tokens than the embedding has rows, never more."""
    last, rows = max(judge.tokens, default=0), checkpoint.config.vocab_size
    if last >= rows:
        raise UsageError(
            f"{judge.path}: the wrong tokenizer: it has {last + 1:,} tokens, the embedding has {rows:,} rows",
            advice="Take the tokenizer that came with these weights.",
        )


def _holding(checkpoint: Checkpoint, device: str, dtype: str | None, quantise: DType | None) -> Holding:
    chosen = _COMPUTED[dtype] if dtype else DType.BFLOAT16 if quantise else computed_type(checkpoint, device)
    return Holding(dtype=torch_type(chosen), device=device, quantise=quantise)


def computed_type(checkpoint: Checkpoint, device: str) -> DType:
    """What to compute in where nothing is said: the model's type, or that in which codes are multiplied as they are."""
    piece = checkpoint.parts[Weight(Role.QUERY, 0)].pieces[0]
    coded = isinstance(piece, TensorSlice) and piece.dtype in ENCODERS
    return DType.BFLOAT16 if coded and device == "cpu" else checkpoint.dtype
