"""GGUF models made, and taken apart, by the gguf package alone: an independent table of names, keys and types."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import sentencepiece
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from tests.checkpoints import MetaModel, hidden_dim

_NAMES = {
    "tok_embeddings": "token_embd",
    "norm": "output_norm",
    "output": "output",
    "attention_norm": "attn_norm",
    "wq": "attn_q",
    "wk": "attn_k",
    "wv": "attn_v",
    "wo": "attn_output",
    "ffn_norm": "ffn_norm",
    "w1": "ffn_gate",
    "w2": "ffn_down",
    "w3": "ffn_up",
}
Values = dict[str, np.ndarray]
Stored = dict[str, tuple[Type, bytes]]
MAGNITUDE = 1e4  # random blocks have no larger values: bfloat16 holds them all


def gguf_name(meta: str) -> str:
    """layers.3.attention.wq.weight -> blk.3.attn_q.weight."""
    parts = meta.split(".")
    name = f"{_NAMES[parts[-2]]}.weight"
    return f"blk.{parts[1]}.{name}" if parts[0] == "layers" else name


def gguf_weights(model: MetaModel) -> dict[str, Tensor]:
    """The model's weights under GGUF's names, rows in Meta's order as GGUF has them; no head where it is tied."""
    weights = {gguf_name(name): weight for name, weight in model.weights.items()}
    if model.tied:
        del weights["output.weight"]
    return weights


def encoded(weight: Tensor, kind: Type) -> bytes:
    """The weight's bytes in a type that the package can write."""
    return gguf.quants.quantize(weight.float().numpy(), kind).tobytes()


def read_theirs(*paths: Path) -> tuple[dict[str, tuple[tuple[str, ...], Any]], Stored]:
    """By the package's reader: each key with its types and value, each tensor with its type and bytes."""
    keys: dict[str, tuple[tuple[str, ...], Any]] = {}
    tensors: Stored = {}
    for path in paths:
        reader = gguf.GGUFReader(path)
        fields = [field for name, field in reader.fields.items() if not name.startswith("GGUF.")]
        keys |= {field.name: (tuple(kind.name for kind in field.types), field.contents()) for field in fields}
        tensors |= {found.name: (found.tensor_type, found.data.tobytes()) for found in reader.tensors}
    return keys, tensors


def llama_keys(model: MetaModel, context: int) -> dict[str, int | float]:
    """What llama.cpp must know, by key; whole numbers are stored as uint32, others as float32."""
    params = model.params
    return {
        "llama.block_count": params["n_layers"],
        "llama.context_length": context,
        "llama.embedding_length": params["dim"],
        "llama.feed_forward_length": hidden_dim(params),
        "llama.attention.head_count": model.heads,
        "llama.attention.head_count_kv": model.kv_heads,
        "llama.rope.freq_base": params.get("rope_theta", 10000.0),
        "llama.attention.layer_norm_rms_epsilon": params["norm_eps"],
        "llama.attention.key_length": model.head_dim,
        "llama.attention.value_length": model.head_dim,
        "llama.vocab_size": model.vocab,
        "llama.rope.dimension_count": model.head_dim,
    }


def rope_divisors(head_dim: int, theta: float, factor: float, context: int = 8192) -> np.ndarray:
    """rope_freqs as llama.cpp's converter computes it: in float32, one frequency after the other."""
    frequencies = 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim))
    found = []
    for wavelength in 2 * torch.pi / frequencies:
        if wavelength < context / 4.0:
            found.append(1.0)
        elif wavelength > context / 1.0:
            found.append(factor)
        else:
            smooth = (context / wavelength - 1.0) / (4.0 - 1.0)
            found.append(float(1 / ((1 - smooth) / factor + smooth)))
    return np.array(found, np.float32)


def random_values(shape: tuple[int, ...], kind: Type, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of random blocks, each redrawn until its values are finite and not huge; and these values."""
    elements, nbytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = generator.integers(0, 256, (shape[0] * shape[1] // elements, nbytes), np.uint8)
    while True:
        with np.errstate(all="ignore"):
            values = gguf.quants.dequantize(blocks, kind)
        wrong = ~(np.abs(values) < MAGNITUDE).all(axis=1)
        if not wrong.any():
            return blocks.reshape(shape[0], -1), values.reshape(shape)
        blocks[wrong] = generator.integers(0, 256, (wrong.sum(), nbytes), np.uint8)


def write_theirs(
    path: Path,
    model: MetaModel,
    kinds: Callable[[str], Type] = lambda name: Type.F32,
    *,
    keys: Mapping[str, int | float | str | None] | None = None,
    divisors: np.ndarray | None = None,
    vocabulary: Callable[[gguf.GGUFWriter], None] | None = None,
    extra: Iterable[tuple[str, np.ndarray]] = (),
) -> Values:
    """Write a model with the package's writer; every value as it dequantises, by name, rows in Meta's order.

    kinds: the type of a matrix by its name; those the package cannot write get random blocks instead of the
    model's weights. keys: to change; None leaves one out. divisors: rope_freqs.
    """
    writer, generator = gguf.GGUFWriter(path, "llama"), np.random.default_rng(0)
    for key, value in {**llama_keys(model, 4096), **(keys or {})}.items():
        if value is not None:
            _add(writer, key, value)
    if vocabulary:
        vocabulary(writer)
    if divisors is not None:
        writer.add_tensor("rope_freqs.weight", divisors)
    values: Values = {}
    for name, weight in gguf_weights(model).items():
        kind = Type.F32 if weight.dim() == 1 else kinds(name)
        data, values[name] = _data(weight, kind, generator)
        writer.add_tensor(name, data, raw_dtype=kind)
    for name, data in extra:
        writer.add_tensor(name, data)
    write_out(writer)
    return values


def write_out(writer: gguf.GGUFWriter) -> None:
    """All that the writer was given, into its file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: gguf.GGUFWriter, key: str, value: int | float | str) -> None:
    if key == "general.architecture":
        writer.kv_data[0].pop(key)
    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
    add(key, value)


def _data(weight: Tensor, kind: Type, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    source = weight.float().numpy()
    try:
        data = gguf.quants.quantize(source, kind)
    except NotImplementedError:
        return random_values(source.shape, kind, generator)
    return data, gguf.quants.dequantize(data, kind)


def vocabulary_of(folder: Path) -> Callable[[gguf.GGUFWriter], None]:
    """The keys of a Meta folder's tokenizer, whichever kind it is; of Llama 3's special tokens two have a name."""
    path = folder / "tokenizer.model"
    if path.read_bytes()[:1] == b"\n":  # a protobuf; the other kind is lines of text
        return sentencepiece_vocabulary(path)
    names = ["<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_special_token_{i}|>" for i in range(254))]
    return tiktoken_vocabulary(path, names, "<|end_of_text|>", None)


def sentencepiece_vocabulary(model: Path) -> Callable[[gguf.GGUFWriter], None]:
    """The keys of a tokenizer.model as llama.cpp's converter writes them, read by the sentencepiece library."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    ids = range(processor.vocab_size())

    def kind(i: int) -> int:
        return 2 if processor.is_unknown(i) else 3 if processor.is_control(i) else 6 if processor.is_byte(i) else 1

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list([processor.id_to_piece(i) for i in ids])
        writer.add_token_scores([processor.get_score(i) for i in ids])
        writer.add_token_types([kind(i) for i in ids])
        writer.add_bos_token_id(processor.bos_id())
        writer.add_eos_token_id(processor.eos_id())
        writer.add_unk_token_id(processor.unk_id())
        writer.add_add_bos_token(True)
        writer.add_add_eos_token(False)

    return add


def tiktoken_vocabulary(
    model: Path, special: list[str], end: str, template: str | None
) -> Callable[[gguf.GGUFWriter], None]:
    """The same of Llama 3's kind. Merges: every cut of a token into two, in the order of the token's rank."""
    texts = [base64.b64decode(line.split()[0]) for line in model.read_bytes().splitlines()]
    ranks = {text: rank for rank, text in enumerate(texts)}
    merges = []
    for text in texts:
        cuts = [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in ranks and text[i:] in ranks]
        merges += sorted(cuts, key=lambda cut: (ranks[cut[0]], ranks[cut[1]]))

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("llama-bpe")
        writer.add_token_list([*map(_letters, texts), *special])
        writer.add_token_types([1] * len(texts) + [3] * len(special))
        writer.add_token_merges([f"{_letters(a)} {_letters(b)}" for a, b in merges])
        writer.add_bos_token_id(len(texts))
        writer.add_eos_token_id(len(texts) + special.index(end))
        writer.add_add_bos_token(True)
        if template is not None:
            writer.add_chat_template(template)

    return add


def _letters(token: bytes) -> str:
    """A token in GPT-2's letters for bytes: printable ones stand for themselves, the others follow from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in printable]
    return "".join(chr(value if value in printable else 256 + others.index(value)) for value in token)
