"""A checkpoint, opened: its sizes, its version, and where the bytes of every weight are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama_convert.convert.architecture import LlamaConfig, Weight
from llama_convert.convert.containers.slices import DType, TensorFile, TensorSlice
from llama_convert.convert.expressions import EveryNthHead, Expression, Joined, Stored
from llama_convert.convert.tokenizers.kinds import TokenizerKind
from llama_convert.convert.versions import Version

if TYPE_CHECKING:
    from llama_convert.convert.formats.format import Format


@dataclass(frozen=True, slots=True)
class Parts:
    """One weight as its files hold it: one slice per model-parallel shard, or a single one.

    axis: where the slices meet; None when each of them is the whole weight.
    """

    slices: tuple[TensorSlice, ...]
    axis: int | None

    def whole(self) -> Expression:
        """The weight as one tensor."""
        if self.axis is None or len(self.slices) == 1:
            return Stored(self.slices[0])
        return Joined(tuple(Stored(part) for part in self.slices), self.axis)


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    """A tokenizer as found beside the weights."""

    kind: TokenizerKind
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a user points at.

    config: the model without what only this file layout adds, such as repeated kv heads.
    versions: the Llama versions the files fit, the likeliest first; never empty.
    parts: every weight the files hold; a tied head is among them where the format stores it.
    kv_copies: how often each key and value head is stored in a row; 1 except in 16-way 405B checkpoints.
    dtype: of the token embedding, which stands for the model's.
    """

    path: Path
    format: Format
    config: LlamaConfig
    versions: tuple[Version, ...]
    parts: Mapping[Weight, Parts]
    files: tuple[TensorFile, ...]
    tokenizer: TokenizerFile | None
    dtype: DType
    kv_copies: int = 1

    @property
    def version(self) -> Version:
        """The version to go by."""
        return self.versions[0]

    def weight(self, weight: Weight) -> Expression:
        """One whole weight of `config`'s shape, in this format's own rotary order."""
        whole = self.parts[weight].whole()
        if self.kv_copies > 1 and whole.shape != self.config.shape(weight.role):
            return EveryNthHead(whole, self.config.head_dim, self.kv_copies)
        return whole
