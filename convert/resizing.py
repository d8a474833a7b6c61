"""The change that a wish makes of a vocabulary: which id pads, which ids new tokens get, how many rows there are.

A choice says why. What cannot be is refused with everything that is wrong; nothing is read but the tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llama_convert.convert.architecture import Role
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.slices import FLOATS, Scaled
from llama_convert.convert.errors import UsageError, counted
from llama_convert.convert.new_tokens import new_tokens, shown
from llama_convert.convert.outputs import Request
from llama_convert.convert.tokenizers.changes import token_numbers
from llama_convert.convert.tokens import Tokens
from llama_convert.convert.vocabulary import Change, Init, NewRows, NewToken

NEW_PAD = "<pad>"
_FINETUNE_PAD = "<|finetune_right_pad_id|>"
# Names that say what they are for: a token that has one may pad.
_PADS = (_FINETUNE_PAD, NEW_PAD, "<PAD>", "[PAD]", "<|pad|>", "<|padding|>")
_RESERVED = re.compile(r"<\|reserved_special_token_\d+\|>")
_UNKNOWN = "<unk>"
_UNKNOWN_TOO = "<unk> is also what unknown text becomes: its loss would be masked too"
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class _Pad:
    """The id to pad with, the token where it is a new one, and the reason."""

    id: int
    new: NewToken | None
    why: str


def pad_change(
    source: Checkpoint,
    tokens: Tokens,
    *,
    token: str | None = None,
    reuse_reserved: bool = True,
    multiple_of: int | None = None,
) -> Change:
    """The best way to give a model a token to pad with, and why.

    tokens: the source's own. token: the user's name for it, of a new token or of one that is there for nothing
    else; None takes the pad that is there, 3.1's own, a reserved token if that is wanted, or a new `<pad>`.
    The row of a new pad token is zeros in the embedding. In the head it is the mean of all rows: its logit is the
    mean of all logits, which is never above the largest, so it cannot be the first choice for any prompt. A row of
    zeros could: its logit 0 is the largest where all others are negative. Where head and embedding are one, the
    one row is the mean. (Rounded to bfloat16 the logit is off by a fraction of its size, far less than what lies
    between the mean and the largest.)
    Raises UsageError: a token that means something, an id that is taken, a size that is none.
    """
    chosen = _named_pad(tokens, token) if token is not None else _best_pad(tokens, reuse_reserved=reuse_reserved)
    count = _rounded_up(max(source.rows, chosen.id + 1), multiple_of)
    mean = NewRows(init=Init.MEAN)
    return Change(
        rows=count,
        tokens=(chosen.new,) if chosen.new else (),
        pad=chosen.id,
        embedding=mean if source.config.tied else NewRows(init=Init.ZERO),
        head=mean,
        why=f"{chosen.why} {_rows_in_words(source.rows, count, multiple_of)}",
    )


def _best_pad(tokens: Tokens, *, reuse_reserved: bool) -> _Pad:
    present = _own_pad(tokens)
    if present is not None:
        return _Pad(present, None, f"It pads with {shown(tokens, present)} already.")
    ids = {token.text: token.id for token in tokens.added}
    if _FINETUNE_PAD in ids:
        return _Pad(ids[_FINETUNE_PAD], None, f"{shown(tokens, ids[_FINETUNE_PAD])} is there for this.")
    free = [token.id for token in tokens.added if _is_free(tokens, token.text)] if reuse_reserved else []
    if free:
        return _Pad(free[-1], None, f"{shown(tokens, free[-1])} is reserved and used for nothing.")
    new = _new_pad(tokens, NEW_PAD)
    reason = f" {_UNKNOWN_TOO}." if _UNKNOWN in ids else ""
    return replace(new, why=f"{new.why}{reason}")


def _own_pad(tokens: Tokens) -> int | None:
    """The pad of the files, unless it has another task."""
    pad = tokens.conventions.pad
    return pad if pad is not None and 0 <= pad < tokens.named.size and not _task(tokens, pad) else None


def _is_free(tokens: Tokens, text: str) -> bool:
    """Whether a token is reserved, and no template for chats uses it."""
    return bool(_RESERVED.fullmatch(text)) and text not in (tokens.conventions.chat_template or "")


def _named_pad(tokens: Tokens, text: str) -> _Pad:
    present = token_numbers(tokens.named).get(text)
    if present is None:
        return _new_pad(tokens, text)
    task = _task(tokens, present)
    if present == _own_pad(tokens):
        return _Pad(present, None, f"It pads with {shown(tokens, present)} already.")
    if task or not (text in _PADS or _is_free(tokens, text)):
        raise UsageError(
            f"--token {text}: exists already (id {present}) and is refused as a pad token: "
            + (task or "it has a meaning of its own: its loss would be masked too"),
            advice=f'Give a new name, such as --token "{NEW_PAD}", or leave the option out.',
        )
    return _Pad(present, None, f"{shown(tokens, present)} is there and has no other task.")


def _task(tokens: Tokens, number: int) -> str | None:
    """What a token of this id is needed for, as the reason why it must not pad; None where it may."""
    uses = tokens.conventions
    if tokens.text(number) == _UNKNOWN:
        return _UNKNOWN_TOO
    if number in (uses.end, *uses.ends):
        return f"{tokens.text(number)} also ends texts: its loss would be masked too, and no answer would ever end"
    if number == uses.begin:
        return f"{tokens.text(number)} also begins every text: readers that mask the pad token would mask it"
    return None


def _new_pad(tokens: Tokens, text: str) -> _Pad:
    (new,) = new_tokens(tokens, [text], special=True, option="--token")
    return _Pad(new.id, new, f"{new.text} ({new.id}) is new.")


def resize_change(
    source: Checkpoint,
    tokens: Tokens,
    *,
    vocab_size: int | None = None,
    add_tokens: Sequence[str] = (),
    special: bool = False,
    multiple_of: int | None = None,
    init: Init = Init.MEAN,
    copied: str | None = None,
    seed: int = 0,
) -> Change:
    """The change to another number of rows, or to more tokens, or both.

    tokens: the source's own. New tokens take the rows that no token uses, then new ones. vocab_size: rows
    afterwards; fewer than now only where no token uses those that go. copied: the text of the token whose rows are
    copied (COPY). seed: of random rows (NORMAL).
    Raises UsageError: tokens that exist, ids that are taken, too few rows for the tokens, no token to copy,
    options that contradict each other, nothing to do.
    """
    _check_options(vocab_size, multiple_of, init, copied)
    new = new_tokens(tokens, add_tokens, special=special, option="--add-tokens")
    needed = tokens.named.size + len(new)
    if vocab_size is not None and vocab_size < needed:
        raise _too_small(tokens, vocab_size, new)
    count = _rounded_up(max(source.rows, needed) if vocab_size is None else vocab_size, multiple_of)
    if count == source.rows and not new:
        raise UsageError(
            f"{source.path}: nothing to do: it has {source.rows:,} rows, and no token is to be added",
            advice="Give --vocab-size, --add-tokens or --multiple-of.",
        )
    rows = NewRows(init=init, source=None if copied is None else _copied_id(tokens, copied), seed=seed)
    return Change(
        rows=count,
        tokens=new,
        pad=None,
        embedding=rows,
        head=replace(rows, seed=seed + 1),  # other random numbers than the embedding's
        why=_why_resized(source, new, count, multiple_of, rows),
    )


def _check_options(vocab_size: int | None, multiple_of: int | None, init: Init, copied: str | None) -> None:
    if vocab_size is not None and vocab_size < 1:
        raise UsageError(f"--vocab-size {vocab_size}: not a size", advice="Give the rows that there shall be.")
    if vocab_size is not None and multiple_of and vocab_size % multiple_of:
        raise UsageError(
            f"--vocab-size {vocab_size} and --multiple-of {multiple_of} contradict each other",
            advice=f"Leave one of them out, or give --vocab-size {_rounded_up(vocab_size, multiple_of)}.",
        )
    if (init is Init.COPY) != (copied is not None):
        raise UsageError(f"--init {init.value}: which token's row is to be copied?", advice="Give --init copy:TOKEN.")


def _copied_id(tokens: Tokens, text: str) -> int:
    found = token_numbers(tokens.named).get(text)
    if found is None:
        raise UsageError(
            f"--init copy:{text}: the tokenizer has no such token", advice="Give the text of one token, as it is there."
        )
    return found


def _too_small(tokens: Tokens, vocab_size: int, new: Sequence[NewToken]) -> UsageError:
    used = tokens.named.size
    if new and vocab_size >= used:
        return UsageError(
            f"--vocab-size {vocab_size}: too few rows for {used:,} tokens and {len(new):,} new ones",
            advice=f"Give --vocab-size {used + len(new)} or more, or leave it out.",
        )
    lost = ", ".join(repr(tokens.text(number)) for number in range(vocab_size, used)[:_MOST_NAMED])
    more = ", ..." if used - vocab_size > _MOST_NAMED else ""
    return UsageError(
        f"--vocab-size {vocab_size}: {counted(used - vocab_size, 'token')} would be lost: {lost}{more}",
        advice=f"Give --vocab-size {used} or more: only rows that no token uses can go.",
    )


def _rounded_up(count: int, multiple_of: int | None) -> int:
    if multiple_of is None:
        return count
    if multiple_of < 1:
        raise UsageError(f"--multiple-of {multiple_of}: not a size", advice="Give 64, for example.")
    return -(-count // multiple_of) * multiple_of


def _rows_in_words(before: int, after: int, multiple_of: int | None) -> str:
    if before == after:
        return f"The {after:,} rows of embedding and head stay."
    multiple = f", a multiple of {multiple_of}" if multiple_of else ""
    return f"Embedding and head go from {before:,} to {after:,} rows{multiple}."


def _why_resized(
    source: Checkpoint, new: Sequence[NewToken], count: int, multiple_of: int | None, rows: NewRows
) -> str:
    sentences = []
    if new:
        ids = f"{new[0].id}" if len(new) == 1 else f"{new[0].id} to {new[-1].id}"
        sentences.append(f"{counted(len(new), 'new token')}: id {ids}.")
    spare = sum(token.id < source.rows for token in new)
    if spare:
        sentences.append(f"{counted(spare, 'row')} that no token used {'is' if spare == 1 else 'are'} taken as found.")
    sentences.append(_rows_in_words(source.rows, count, multiple_of))
    if count > source.rows:
        made = {
            Init.MEAN: "the mean of the old ones",
            Init.ZERO: "zeros",
            Init.COPY: f"copies of row {rows.source}",
            Init.NORMAL: f"drawn around the mean of the old ones, seed {rows.seed}",
        }
        sentences.append(f"New rows are {made[rows.init]}.")
    return " ".join(sentences)


def is_change(source: Checkpoint, tokens: Tokens, change: Change) -> bool:
    """Whether anything is to become of the source at all."""
    same_pad = change.pad is None or change.pad == tokens.conventions.pad
    return change.rows != source.rows or bool(change.tokens) or not same_pad


def with_change(source: Checkpoint, change: Change, request: Request) -> Checkpoint:
    """The source as what it is to become: any writer can write it.

    Raises UsageError for more rows of a quantised embedding or head where no type is asked for to write them in.
    """
    quantised = [
        piece.codes.dtype.label if isinstance(piece, Scaled) else piece.dtype.label
        for weight, parts in source.parts.items()
        if weight.role in (Role.TOKENS, Role.HEAD)
        for piece in parts.pieces
        if isinstance(piece, Scaled) or piece.dtype not in FLOATS
    ]
    if change.rows > source.rows and quantised and request.dtype is None:
        raise UsageError(
            f"{source.path}: new rows of {quantised[0]} would have to be quantised: a quantised source needs --dtype",
            advice="Give --dtype bfloat16, and --quantize where the target is to be quantised again.",
        )
    return replace(source, change=change, config=replace(source.config, vocab_size=change.rows))
