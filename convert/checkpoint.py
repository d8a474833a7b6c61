"""A checkpoint, opened: its sizes, its version, and where the bytes of every weight are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama_convert.convert.architecture import LlamaConfig, Role, Rotary, Weight
from llama_convert.convert.containers.slices import FLOATS, DType, Scaled, TensorFile, TensorSlice
from llama_convert.convert.expressions import EveryNthHead, Expression, Joined, resized, stored
from llama_convert.convert.tokenizers.kinds import TokenizerKind
from llama_convert.convert.versions import Version
from llama_convert.convert.vocabulary import Change

if TYPE_CHECKING:
    from llama_convert.convert.format import Format


@dataclass(frozen=True, slots=True)
class Parts:
    """One weight as its files hold it: one piece per model-parallel shard, or a single one.

    axis: where the pieces meet; None when each of them is the whole weight.
    """

    pieces: tuple[TensorSlice | Scaled, ...]
    axis: int | None

    def whole(self) -> Expression:
        """The weight as one tensor."""
        if self.axis is None or len(self.pieces) == 1:
            return stored(self.pieces[0])
        return Joined(tuple(stored(piece) for piece in self.pieces), self.axis)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conventions:
    """What a checkpoint says of the use of its tokens, where its format has words for that.

    begin, end, pad: ids; None where there is no such token. end: the tokenizer's own. ends: every id at which
    an answer is over.
    """

    begin: int | None
    end: int | None
    ends: tuple[int, ...]
    pad: int | None
    chat_template: str | None


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    """A tokenizer as found beside the weights, or within them.

    conventions: None where the files do not say: then the version does.
    """

    kind: TokenizerKind
    path: Path
    conventions: Conventions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a user points at.

    path: the folder, or the file where one file is all. config: the model without what only this file layout
    adds, such as repeated kv heads.
    versions: the Llama versions the files fit, the likeliest first; never empty.
    parts: every weight the files hold; a tied head is among them where the format stores it.
    kv_copies: how often each key and value head is stored in a row; 1 except in 16-way 405B checkpoints.
    dtype: of the model: the embedding's, or what a quantised model's values are to be read in.
    widened: norms that this format stores in float32 and that are of `dtype` in truth: it holds them exactly.
    rotary: the order of the rows of q and k; the format's, but for files known to differ.
    notes: what the user should know of these files, one sentence each.
    change: what is to become of the vocabulary; `config` has the size it is to have then.
    """

    path: Path
    format: Format
    config: LlamaConfig
    versions: tuple[Version, ...]
    parts: Mapping[Weight, Parts]
    files: tuple[TensorFile, ...]
    tokenizer: TokenizerFile | None
    dtype: DType
    rotary: Rotary
    kv_copies: int = 1
    widened: frozenset[Weight] = frozenset()
    notes: tuple[str, ...] = ()
    change: Change | None = None

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def version(self) -> Version:
        """The version to go by."""
        return self.versions[0]

    @property
    def rows(self) -> int:
        """Rows of the embedding as the files hold it, whatever is to become of them."""
        return self.parts[Weight(Role.TOKENS)].whole().shape[0]

    def weight(self, weight: Weight) -> Expression:
        """One whole weight of `config`'s shape, in this format's own rotary order; changed where it is to change.

        A tied head is the embedding and changes with that; one that is stored besides is not asked for.
        """
        whole = self.parts[weight].whole()
        if self.change and weight.role is Role.TOKENS:
            return resized(whole, self.change.rows, self.change.embedding)
        if self.change and weight.role is Role.HEAD:
            return resized(whole, self.change.rows, self.change.head)
        if self.kv_copies > 1 and whole.shape != self.config.shape(weight.role):
            return EveryNthHead(whole, self.config.head_dim, self.kv_copies)
        return whole

    def dtype_of(self, weight: Weight) -> DType:
        """The type to write a weight in where the user asks for none: its own, or the model's."""
        own = self.parts[weight].whole().dtype
        return self.dtype if weight in self.widened or own not in FLOATS or self._decoded(weight) else own

    def _decoded(self, weight: Weight) -> bool:
        return any(isinstance(piece, Scaled) for piece in self.parts[weight].pieces)
