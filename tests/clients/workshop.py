"""What the clients are shown: small models, converted by the real command line, and what Meta's code makes of them.

Everything is made on first use and kept for the next case that asks for the same.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import gguf
import llama_models.llama3
import torch
from torch import Tensor

from tests.checkpoints import MetaModel, hidden_dim, random_model, write_meta
from tests.meta_reference import meta_logits, random_tokens

TOKENIZER = Path(llama_models.llama3.__file__).parent / "tokenizer.model"
VOCABULARY = 128256
POSITIONS = 64
TOKENS = random_tokens(VOCABULARY, POSITIONS)
# No empty text: torchtune encodes it as nothing, not even the token that begins every other.
TEXTS = [
    "Hello world",
    "  two spaces in front, three behind   ",
    "\ttabs\nand\r\nlines\n\n\n",
    "it 's ok , yes — don't! 1234567 3.14159",
    "việc héllo नमस्ते 你好 世界 שלום 🦙👩‍👩‍👧‍👦 \x00\x07",
    "def f(x):\n    return x ** 2  # half-split\n",
]

# How a model can be spoilt before it is converted, so that its files are those of a converter with that fault.
Fault = Literal["rows", "scaling"]


@cache
def model(version: str) -> MetaModel:
    """Every row is a multiple of 256 long but those of w2, of 32: what ggml's blocks need."""
    return random_model(version, dim=256, heads=4, kv_heads=2, vocab=VOCABULARY)


def spoilt(whole: MetaModel, fault: Fault | None) -> MetaModel:
    """rows: q and k moved to the other rotary order. scaling: params.json does not ask for it."""
    if fault == "scaling":
        return replace(whole, params=whole.params | {"use_scaled_rope": False}, version="3")
    if fault == "rows":
        rotated = [name for name in whole.weights if name.endswith((".wq.weight", ".wk.weight"))]
        moved = {name: other_order(whole.weights[name], whole.head_dim) for name in rotated}
        return replace(whole, weights=whole.weights | moved)
    return whole


def other_order(weight: Tensor, head_dim: int) -> Tensor:
    return torch.unflatten(weight, 0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2).contiguous()


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Of which model, and the options of each `llama-convert convert` on the way to them."""

    version: str
    steps: tuple[tuple[str, ...], ...]
    fault: Fault | None = None

    @property
    def name(self) -> str:
        """3.1 gguf q4_0, with the fault at the end."""
        words = [word for step in self.steps for word in step if not word.startswith("-")] or ["meta"]
        return " ".join([self.version, *words, *([f"wrong {self.fault}"] if self.fault else [])])


@dataclass(frozen=True, slots=True)
class Workshop:
    root: Path
    made: dict[Files, Path] = field(default_factory=dict)

    def files(self, wanted: Files) -> Path:
        """What the last step wrote."""
        if wanted not in self.made:
            self.made[wanted] = self._make(wanted)
        return self.made[wanted]

    def _make(self, wanted: Files) -> Path:
        path = self.root / wanted.name.replace(" ", "-")
        if not wanted.steps:
            return write_meta(spoilt(model(wanted.version), wanted.fault), path, tokenizer=TOKENIZER)
        *before, options = wanted.steps
        convert(self.files(replace(wanted, steps=tuple(before))), path, options)
        return next(path.glob("*.gguf"), path)  # clients take the file of this format, the folder of all others


def convert(source: Path, target: Path, options: Sequence[str]) -> None:
    """Run llama-convert; what it says goes into the error if it fails."""
    command = [Path(sys.executable).with_name("llama-convert"), "convert", source, target, *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"llama-convert {' '.join(options)}: {'; '.join(done.stderr.strip().splitlines()[-2:])}")


@cache
def logits(version: str, kind: str | None = None, scaled: bool = True) -> Tensor:
    """Meta's own Transformer on the weights, first rounded to a quantised type of ggml by gguf-py where asked."""
    whole = model(version)
    if kind is not None:
        whole = replace(whole, weights={name: rounded(weight, kind) for name, weight in whole.weights.items()})
    return meta_logits(whole if scaled else spoilt(whole, "scaling"), TOKENS)


def rounded(weight: Tensor, kind: str) -> Tensor:
    """As in a GGUF of that type: norms stay as they are."""
    if weight.ndim == 1:
        return weight
    number = gguf.GGMLQuantizationType[kind.upper()]
    return torch.from_numpy(gguf.dequantize(gguf.quantize(weight.float().numpy(), number), number))


@cache
def ids() -> list[list[int]]:
    """What Meta's own tokenizer makes of the texts."""
    from llama_models.llama3.tokenizer import Tokenizer

    tokenizer = Tokenizer(TOKENIZER)
    return [tokenizer.encode(text, bos=True, eos=False) for text in TEXTS]


def question(version: str) -> dict[str, Any]:
    """What every judge is asked; sizes for those clients that read none from the files."""
    whole = model(version)
    sizes = {
        "layers": whole.params["n_layers"],
        "heads": whole.heads,
        "kv_heads": whole.kv_heads,
        "dim": whole.params["dim"],
        "hidden": hidden_dim(whole.params),
        "vocab": whole.vocab,
        "theta": whole.params["rope_theta"],
        "eps": whole.params["norm_eps"],
        "rope_factor": whole.rope_factor if whole.params.get("use_scaled_rope") else None,
        "tied": whole.tied,
    }
    return {"tokens": TOKENS.flatten().tolist(), "texts": TEXTS, "sizes": sizes}
