"""Small Meta checkpoints with the traits of the released ones, made without llama_convert.

The tests judge the converter by these files, so nothing here may come from it. Sources: the params.json of
each release, and llama_models.llama3.model (0.3.0) for names, shapes and the axis each tensor is split on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tests.small_tokenizers import PIECES, RANKS, small_sentencepiece, small_tiktoken

Tied = bool | Literal["copy"]
TokenizerKind = Literal["tiktoken", "sentencepiece"]

SPECIAL_TOKENS = 256  # rows of the vocabulary behind the ranks of a tiktoken file, in every Llama from 3 on
# A factor on q and on k: at 1 attention is flat and hides mistakes in them, from 3 on it magnifies rounding.
SHARPNESS = 2.0
# What the shards of a model divide; the norms are whole on every shard.
SPLIT_AXES = {"wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w3": 0, "w2": 1, "output": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """What sets the files of one Llama version apart. None: params.json has no such key."""

    eps: float = 1e-5
    theta: float | None = None
    scaled: bool | None = None
    grouped: bool = True
    multiple_of: int = 64
    multiplier: float | None = 1.3
    vocab_known: bool = True
    dtype: torch.dtype = torch.bfloat16
    tied: Tied = False
    tokenizer: TokenizerKind = "tiktoken"


_LLAMA_2 = Style(grouped=False, multiple_of=96, multiplier=None, vocab_known=False, tokenizer="sentencepiece")
_LLAMA_3 = Style(theta=500000.0)
_LLAMA_31 = Style(theta=500000.0, scaled=True)

STYLES: dict[str, Style] = {
    "1": Style(
        eps=1e-6,
        grouped=False,
        multiple_of=96,
        multiplier=None,
        vocab_known=False,
        dtype=torch.float16,
        tokenizer="sentencepiece",
    ),
    "2": _LLAMA_2,
    "code": Style(theta=1000000.0, grouped=False, multiple_of=96, multiplier=1.0, tokenizer="sentencepiece"),
    "3": _LLAMA_3,
    "3.1": _LLAMA_31,
    "3.2": Style(theta=500000.0, scaled=True, multiplier=1.5, tied=True),
    "3.3": _LLAMA_31,
    "guard-1": _LLAMA_2,
    "guard-2": _LLAMA_3,
    "guard-3": _LLAMA_31,
}
VERSIONS = tuple(STYLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaModel:
    """One whole model in Meta's names: params as in params.json, weights merged over all shards.

    version: a key of STYLES; None where only files are known.
    """

    params: dict[str, Any]
    weights: dict[str, Tensor]
    version: str | None = None

    @property
    def heads(self) -> int:
        return self.params["n_heads"]

    @property
    def kv_heads(self) -> int:
        return self.params.get("n_kv_heads") or self.heads

    @property
    def head_dim(self) -> int:
        return self.params["dim"] // self.heads

    @property
    def vocab(self) -> int:
        """Rows of the embedding; params.json says -1 in Llama 1 and 2."""
        return self.weights["tok_embeddings.weight"].shape[0]

    @property
    def rope_factor(self) -> float:
        """The factor use_scaled_rope stands for; no file holds it: 32 in Llama 3.2, 8 in the others."""
        return 32.0 if self.version == "3.2" else 8.0

    @property
    def tied(self) -> bool:
        return torch.equal(self.weights["output.weight"], self.weights["tok_embeddings.weight"])

    @property
    def tokenizer(self) -> TokenizerKind:
        """The kind whose small tokenizer has exactly this model's vocabulary."""
        return STYLES[self._known_version()].tokenizer

    @property
    def embedding_axis(self) -> int:
        """Rows are split from Llama 3 on (VocabParallelEmbedding), columns before (ParallelEmbedding)."""
        return 0 if self.tokenizer == "tiktoken" else 1

    def _known_version(self) -> str:
        assert self.version is not None, "this model was read from files: which Llama it is has not been said"
        return self.version


def random_model(
    version: str,
    *,
    seed: int = 0,
    tied: Tied | None = None,
    layers: int = 2,
    dim: int = 192,
    heads: int = 12,
    kv_heads: int | None = None,
    vocab: int | None = None,
    dtype: torch.dtype | None = None,
    params: Mapping[str, Any] | None = None,
) -> MetaModel:
    """A model whose logits depend visibly on everything a conversion can get wrong.

    The default sizes have no two equal on purpose: 12 heads of 16 on 4 key-value heads.

    tied: True shares one tensor as output head and embedding, "copy" makes two equal ones; None: as the
        version does.
    kv_heads: None gives a third of the heads where the version groups queries; elsewhere as many as heads,
        and no entry in params.json.
    vocab: None fits the small tokenizer of the version.
    params: entries of params.json to change or add, before shapes follow from them; None removes one.
    """
    style = STYLES[version]
    if kv_heads is None and style.grouped:
        kv_heads = heads // 3
    if vocab is None:
        vocab = RANKS + SPECIAL_TOKENS if style.tokenizer == "tiktoken" else PIECES
    sizes = {"dim": dim, "n_layers": layers, "n_heads": heads, "n_kv_heads": kv_heads}
    wanted = sizes | _style_params(style, vocab) | dict(params or {})
    found = {key: value for key, value in wanted.items() if value is not None}
    assert dim % heads == 0, "heads must divide dim"
    assert heads % found.get("n_kv_heads", heads) == 0, "kv_heads must divide heads"
    weights = _random_weights(found, vocab, dtype or style.dtype, seed)
    if (tied := style.tied if tied is None else tied) is not False:
        embedding = weights["tok_embeddings.weight"]
        weights["output.weight"] = embedding.clone() if tied == "copy" else embedding
    return MetaModel(params=found, weights=weights, version=version)


def _style_params(style: Style, vocab: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab if style.vocab_known else -1,
        "multiple_of": style.multiple_of,
        "ffn_dim_multiplier": style.multiplier,
        "norm_eps": style.eps,
        "rope_theta": style.theta,
        "use_scaled_rope": style.scaled,
    }


def hidden_dim(params: Mapping[str, Any]) -> int:
    """Rows of w1 and w3, by the formula of Meta's FeedForward; no params.json states them."""
    hidden = int(params.get("ffn_dim_multiplier", 1.0) * int(8 * params["dim"] / 3))
    return -(-hidden // params["multiple_of"]) * params["multiple_of"]


def shapes(params: Mapping[str, Any], vocab: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the merged state dict, in the order of Meta's Transformer."""
    dim, hidden = params["dim"], hidden_dim(params)
    kv_dim = params.get("n_kv_heads", params["n_heads"]) * (dim // params["n_heads"])
    layer = {
        "attention.wq": (dim, dim),
        "attention.wk": (kv_dim, dim),
        "attention.wv": (kv_dim, dim),
        "attention.wo": (dim, dim),
        "feed_forward.w1": (hidden, dim),
        "feed_forward.w2": (dim, hidden),
        "feed_forward.w3": (hidden, dim),
        "attention_norm": (dim,),
        "ffn_norm": (dim,),
    }
    found: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (vocab, dim)}
    for index in range(params["n_layers"]):
        found |= {f"layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    return found | {"norm.weight": (dim,), "output.weight": (vocab, dim)}


def _random_weights(params: dict[str, Any], vocab: int, dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    """Standard deviation 1/sqrt(fan in), so that each part of the model counts about the same in the logits.

    The embedding too: at a deviation of 1 its rows would be so long that a wrong norm_eps left no trace.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes(params, vocab).items():
        if len(shape) == 1:  # norms far from one, so that two of them cannot be exchanged unseen
            weight = 0.5 + torch.rand(shape, generator=generator)
        else:
            weight = torch.randn(shape, generator=generator) / shape[1] ** 0.5
        if _module(name) in ("wq", "wk"):
            weight *= SHARPNESS
        weights[name] = weight.to(dtype)
    return weights


def _module(name: str) -> str:
    """layers.3.attention.wq.weight -> wq."""
    return name.split(".")[-2]


def write_meta(
    model: MetaModel,
    folder: Path,
    *,
    shards: int = 1,
    embedding_axis: int | None = None,
    kv_copies: int = 1,
    legacy: bool = False,
    shared_storage: bool = False,
    strided: bool = False,
    rope_freqs: bool = False,
    params_nested: bool = False,
    checklist: bool = True,
    tokenizer: Path | TokenizerKind | None = None,
) -> Path:
    """Write the folder Meta would ship: consolidated.NN.pth, params.json, tokenizer.model, checklist.chk.

    embedding_axis: what tok_embeddings is split on; None: as the version does.
    kv_copies: store each key-value head so many times, neighbours equal (0 0 1 1 ...), and count the copies
        in n_kv_heads, as the 405B checkpoint of 16 shards does.
    legacy: the file format of torch before 1.6, a row of pickles instead of a zip.
    shared_storage: every tensor of a shard is a view into one storage; a tied pair is the same view twice.
    strided: wo and w2 are saved as transposed views, so their bytes lie by columns.
    rope_freqs: add the rotary frequencies that some Llama 1 and 2 files carry.
    params_nested: {"model": {...}} as params.json.
    tokenizer: a file to copy, or the kind to make; `model.tokenizer` fits the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    axis = model.embedding_axis if embedding_axis is None else embedding_axis
    physical = with_kv_copies(model, kv_copies)
    for rank in range(shards):
        shard = _shard(physical, rank, shards, axis)
        if rope_freqs:
            shard["rope.freqs"] = _rope_freqs(physical)
        if strided:
            shard = {name: _by_columns(name, weight) for name, weight in shard.items()}
        if shared_storage:
            shard = _in_one_storage(shard)
        path = folder / f"consolidated.{rank:02d}.pth"
        torch.save(shard, path, _use_new_zipfile_serialization=not legacy)
    params = {"model": physical.params} if params_nested else physical.params
    (folder / "params.json").write_text(json.dumps(params))
    _write_tokenizer(folder / "tokenizer.model", tokenizer, model.vocab)
    if checklist:
        write_checklist(folder)
    return folder


def with_kv_copies(model: MetaModel, copies: int) -> MetaModel:
    """The same function of the tokens with each key-value head stored `copies` times, side by side."""
    if copies == 1:
        return model
    weights = {
        name: _repeat_heads(weight, model.head_dim, copies) if _module(name) in ("wk", "wv") else weight
        for name, weight in model.weights.items()
    }
    params = model.params | {"n_kv_heads": model.kv_heads * copies}
    return MetaModel(params=params, weights=weights, version=model.version)


def _repeat_heads(weight: Tensor, head_dim: int, copies: int) -> Tensor:
    return torch.cat([head for head in weight.split(head_dim) for _ in range(copies)])


def _shard(model: MetaModel, rank: int, shards: int, embedding_axis: int) -> dict[str, Tensor]:
    """What one rank holds of each tensor; one tensor under two names stays one where both split alike."""
    axes = {**SPLIT_AXES, "tok_embeddings": embedding_axis}
    parts: dict[tuple[int, int | None], Tensor] = {}
    shard = {}
    for name, weight in model.weights.items():
        axis = axes.get(_module(name))
        if (id(weight), axis) not in parts:
            parts[id(weight), axis] = _part(name, weight, axis, rank, shards)
        shard[name] = parts[id(weight), axis]
    return shard


def _part(name: str, weight: Tensor, axis: int | None, rank: int, shards: int) -> Tensor:
    if axis is None:
        return weight.clone()
    size, rest = divmod(weight.shape[axis], shards)
    assert rest == 0, f"{name}: {tuple(weight.shape)} cannot be split in {shards} on axis {axis}"
    return weight.narrow(axis, rank * size, size).clone()


def _rope_freqs(model: MetaModel) -> Tensor:
    exponents = torch.arange(0, model.head_dim, 2) / model.head_dim
    dtype = model.weights["norm.weight"].dtype
    return (model.params.get("rope_theta", 10000.0) ** -exponents).to(dtype)


def _by_columns(name: str, weight: Tensor) -> Tensor:
    return weight.t().contiguous().t() if _module(name) in ("wo", "w2") else weight


def _in_one_storage(shard: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same shard as views into one storage, strides kept; a tensor under two names is stored once."""
    different = {id(weight): weight for weight in shard.values()}
    elements = sum(weight.numel() for weight in different.values())
    storage = torch.empty(elements, dtype=shard["norm.weight"].dtype)
    views, offset = {}, 0
    for key, weight in different.items():
        views[key] = storage.as_strided(weight.shape, weight.stride(), offset).copy_(weight)
        offset += weight.numel()
    return {name: views[id(weight)] for name, weight in shard.items()}


def _write_tokenizer(path: Path, tokenizer: Path | TokenizerKind | None, vocab: int) -> None:
    if tokenizer == "tiktoken":
        small_tiktoken(path, vocab - SPECIAL_TOKENS)
    elif tokenizer == "sentencepiece":
        small_sentencepiece(path, vocab)
    elif tokenizer is not None:
        shutil.copyfile(tokenizer, path)


def write_checklist(folder: Path) -> None:
    """checklist.chk as md5sum prints it, over every other file of the folder."""
    files = sorted(path for path in folder.iterdir() if path.name != "checklist.chk")
    lines = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "checklist.chk").write_text("".join(lines))


# ---- the standard cases ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One checkpoint that every conversion must handle: which model, and how it lies in files."""

    name: str
    version: str
    tied: Tied | None = None
    shards: int = 1
    kv_copies: int = 1
    dim: int = 192
    heads: int = 12
    kv_heads: int | None = None

    def __str__(self) -> str:
        return self.name

    def model(self, *, seed: int = 0) -> MetaModel:
        return random_model(
            self.version, seed=seed, tied=self.tied, dim=self.dim, heads=self.heads, kv_heads=self.kv_heads
        )

    def write(self, folder: Path, *, seed: int = 0, **options: Any) -> Path:
        """Write the case with its tokenizer; options as for write_meta."""
        model = self.model(seed=seed)
        layout = {"shards": self.shards, "kv_copies": self.kv_copies, "tokenizer": model.tokenizer}
        return write_meta(model, folder, **(layout | options))


CASES: tuple[Case, ...] = (
    *(Case(name=version, version=version) for version in VERSIONS),
    Case(name="3.2-tied-by-value", version="3.2", tied="copy"),
    Case(name="3.2-untied", version="3.2", tied=False),
    Case(name="1-4shards", version="1", shards=4),
    Case(name="2-2shards", version="2", shards=2),
    Case(name="2-grouped-8shards", version="2", shards=8, heads=24, kv_heads=8),
    Case(name="code-grouped-4shards", version="code", shards=4, kv_heads=4),
    Case(name="3-2shards", version="3", shards=2),
    Case(name="3.1-4shards", version="3.1", shards=4),
    Case(name="3.3-8shards", version="3.3", shards=8, heads=24, kv_heads=8),
    Case(name="3.1-16shards-kv-twice", version="3.1", shards=16, kv_copies=2, dim=256, heads=32, kv_heads=8),
)
