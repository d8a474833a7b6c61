"""What a Llama is made of: its sizes, the roles of its tensors, and the shape each role has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import NamedTuple


class Rotary(Enum):
    """How the rows of a query or key head lie: where the two coordinates of a rotated pair are.

    PAIRS: rows 2i and 2i+1 (Meta, GGUF). HALVES: rows i and i + head_dim/2 (Hugging Face, scratch).
    """

    PAIRS = "pair-interleaved"
    HALVES = "half-split"


class Role(Enum):
    """What a tensor does in the model, whatever a format calls it."""

    TOKENS = "token embedding"
    ATTENTION_NORM = "attention norm"
    QUERY = "query projection"
    KEY = "key projection"
    VALUE = "value projection"
    ATTENTION_OUT = "attention output projection"
    FFN_NORM = "feed-forward norm"
    GATE = "gate projection"
    UP = "up projection"
    DOWN = "down projection"
    FINAL_NORM = "final norm"
    HEAD = "output head"


LAYER_ROLES = (
    Role.ATTENTION_NORM,
    Role.QUERY,
    Role.KEY,
    Role.VALUE,
    Role.ATTENTION_OUT,
    Role.FFN_NORM,
    Role.GATE,
    Role.UP,
    Role.DOWN,
)
NORM_ROLES = (Role.ATTENTION_NORM, Role.FFN_NORM, Role.FINAL_NORM)
ROTARY_ROLES = (Role.QUERY, Role.KEY)
# More than this is a damaged file, not a model: the 405B has 126.
MOST_LAYERS = 10_000


class Weight(NamedTuple):
    """One tensor of the model: its role, and its layer where the role is a layer's."""

    role: Role
    layer: int | None = None

    def __str__(self) -> str:
        return self.role.value if self.layer is None else f"{self.role.value} of layer {self.layer}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """Llama 3.1's stretching of the rotary wavelengths.

    factor: how much the longest wavelengths are stretched: 8 for 3.1 and 3.3, 32 for 3.2.
    low_frequency_factor, high_frequency_factor: where the stretching starts and where it is full, as
    original_context / wavelength. original_context: positions the model was trained on before.
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """The sizes and constants of one Llama; no field has a default, so none can be forgotten.

    hidden_size, intermediate_size, head_dim, vocab_size: in elements. context: in positions.
    tied: the output head is the token embedding.
    """

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    context: int
    tied: bool

    def shape(self, role: Role) -> tuple[int, ...]:
        """The whole tensor's shape, (out, in) for projections, rows first."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            Role.TOKENS: (self.vocab_size, self.hidden_size),
            Role.ATTENTION_NORM: (self.hidden_size,),
            Role.QUERY: (queries, self.hidden_size),
            Role.KEY: (keys, self.hidden_size),
            Role.VALUE: (keys, self.hidden_size),
            Role.ATTENTION_OUT: (self.hidden_size, queries),
            Role.FFN_NORM: (self.hidden_size,),
            Role.GATE: (self.intermediate_size, self.hidden_size),
            Role.UP: (self.intermediate_size, self.hidden_size),
            Role.DOWN: (self.hidden_size, self.intermediate_size),
            Role.FINAL_NORM: (self.hidden_size,),
            Role.HEAD: (self.vocab_size, self.hidden_size),
        }[role]

    @property
    def parameters(self) -> int:
        """Number of weights; a tied head is counted once."""
        return sum(prod(self.shape(weight.role)) for weight in weights(self))


def weights(config: LlamaConfig) -> Iterator[Weight]:
    """Every tensor of the model in the order the forward pass uses them; no head where it is tied."""
    yield Weight(Role.TOKENS)
    for layer in range(config.layers):
        for role in LAYER_ROLES:
            yield Weight(role, layer)
    yield Weight(Role.FINAL_NORM)
    if not config.tied:
        yield Weight(Role.HEAD)
