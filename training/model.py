"""A Llama 3 for training. With Meta's parameter names and rotary pairs, its state dict is Meta's checkpoint.

Shapes: B sequences, T tokens, H heads, D = dim / H numbers per head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """The keys of Meta's params.json."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    multiple_of: int
    ffn_dim_multiplier: float
    norm_eps: float
    rope_theta: float
    use_scaled_rope: bool

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def hidden_dim(self) -> int:
        """Width of the feed-forward layer: Meta's two thirds of 4 dim, stretched and rounded up."""
        wanted = int(self.ffn_dim_multiplier * int(8 * self.dim / 3))
        return self.multiple_of * -(-wanted // self.multiple_of)


class RMSNorm(nn.Module):
    """Starts a little off one: a conversion that loses or swaps norm weights must show."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.eps = params.norm_eps
        self.weight = nn.Parameter(torch.empty(params.dim).uniform_(0.8, 1.2))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention: each of the n_kv_heads keys and values serves n_heads / n_kv_heads queries."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.head_dim = params.head_dim
        self.wq = nn.Linear(params.dim, params.n_heads * params.head_dim, bias=False)
        self.wk = nn.Linear(params.dim, params.n_kv_heads * params.head_dim, bias=False)
        self.wv = nn.Linear(params.dim, params.n_kv_heads * params.head_dim, bias=False)
        self.wo = nn.Linear(params.n_heads * params.head_dim, params.dim, bias=False)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        query = rotate(self.heads(self.wq(x)), rotation)
        key = rotate(self.heads(self.wk(x)), rotation)
        value = self.heads(self.wv(x))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        joined: Tensor = self.wo(mixed.transpose(1, 2).flatten(2))
        return joined

    def heads(self, x: Tensor) -> Tensor:
        """(B, T, H * D) -> (B, H, T, D)."""
        return torch.unflatten(x, -1, (-1, self.head_dim)).transpose(1, 2)


class FeedForward(nn.Module):
    """SwiGLU: w1 is the gate, w3 the value it lets through, w2 the way back."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.w1 = nn.Linear(params.dim, params.hidden_dim, bias=False)
        self.w2 = nn.Linear(params.hidden_dim, params.dim, bias=False)
        self.w3 = nn.Linear(params.dim, params.hidden_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.w2(functional.silu(self.w1(x)) * self.w3(x))
        return down


class Block(nn.Module):
    """One layer: attention and feed-forward, each on the normalised stream and added to it."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.attention = Attention(params)
        self.feed_forward = FeedForward(params)
        self.attention_norm = RMSNorm(params)
        self.ffn_norm = RMSNorm(params)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotation)
        fed: Tensor = x + self.feed_forward(self.ffn_norm(x))
        return fed


class Llama(nn.Module):
    """Tokens (B, T) -> logits (B, T, vocab_size). No cache: the model is small and so are its stories."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.params = params
        self.tok_embeddings = nn.Embedding(params.vocab_size, params.dim)
        self.layers = nn.ModuleList(Block(params) for _ in range(params.n_layers))
        self.norm = RMSNorm(params)
        self.output = nn.Linear(params.dim, params.vocab_size, bias=False)
        self.apply(start_matrix)

    def forward(self, tokens: Tensor) -> Tensor:
        rotation = rotation_of_positions(tokens.shape[-1], self.params)
        x = self.tok_embeddings(tokens)
        for layer in self.layers:
            x = layer(x, rotation)
        logits: Tensor = self.output(self.norm(x))
        return logits


def start_matrix(module: nn.Module) -> None:
    """Random numbers of the size that keeps a sum over the inputs near one."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)


def rotation_of_positions(length: int, params: Params) -> Tensor:
    """How far each pair of a head turns at each position: unit complex numbers, (length, D / 2)."""
    places = torch.arange(0, params.head_dim, 2, dtype=torch.float32) / params.head_dim
    angles = torch.outer(torch.arange(length, dtype=torch.float32), params.rope_theta**-places)
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn each pair of neighbouring numbers of x, (B, H, T, D), as one complex number."""
    pairs = torch.view_as_complex(torch.unflatten(x, -1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * rotation).flatten(-2)


@torch.no_grad()
def complete(model: nn.Module, tokens: list[int], end: int, limit: int) -> list[int]:
    """The likeliest next tokens, one by one, until the token `end` (kept) or `limit` tokens in all."""
    tokens = list(tokens)
    while len(tokens) < limit and tokens[-1] != end:
        logits = model(torch.tensor([tokens]))
        tokens.append(int(logits[0, -1].argmax()))
    return tokens
