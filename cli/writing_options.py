"""The options that `generate` and `chat` share, each worded once, those that belong together as groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typer import Option

from llama_convert.cli.options import TokenizerPath

MaxNewTokens = Annotated[int, Option("--max-new-tokens", min=1, help="Tokens to write at most.")]
Temperature = Annotated[
    float | None,
    Option(
        "--temperature",
        help="Draw tokens; logits are divided by this first (1: as the model has them). Without this and the four "
        "options below the likeliest token is taken each time.",
        show_default=False,
    ),
]
TopK = Annotated[int | None, Option("--top-k", help="Draw from the k likeliest tokens only.", show_default=False)]
TopP = Annotated[
    float | None,
    Option("--top-p", help="Draw from the likeliest tokens that have this probability together.", show_default=False),
]
MinP = Annotated[
    float | None,
    Option("--min-p", help="Draw from tokens at least this times as likely as the likeliest.", show_default=False),
]
Seed = Annotated[
    int | None,
    Option("--seed", min=0, max=2**32 - 1, help="The same seed draws the same tokens.", show_default=False),
]
Greedy = Annotated[bool, Option("--greedy", help="Take the likeliest token each time, as without any of these.")]
Stop = Annotated[
    list[str] | None,
    Option("--stop", metavar="TEXT", help="End before this text; may be repeated.", show_default=False),
]
Eos = Annotated[
    list[str] | None,
    Option(
        "--eos",
        metavar="TOKEN",
        help="End at this token, an id or a name, instead of at the model's own end tokens; may be repeated.",
        show_default=False,
    ),
]
Device = Annotated[str, Option("--device", help="Where to compute: auto, cuda (AMD's GPUs too), mps or cpu.")]
ComputeType = Annotated[
    str | None,
    Option(
        "--dtype",
        help="Compute in float32, bfloat16 or float16 (default: the model's own type).",
        show_default=False,
    ),
]
Compile = Annotated[bool, Option("--compile", help="Have torch compile the model: a slow start; meant for GPUs.")]
Encoding = Annotated[
    str | None,
    Option(
        "--quantization-encoding",
        help="Hold the matrices in q4_0 or q8_0, or all in bfloat16 or float32 (default: as the files have them).",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How tokens are drawn: each likeliest one where nothing is given."""

    temperature: Temperature = None
    top_k: TopK = None
    top_p: TopP = None
    min_p: MinP = None
    seed: Seed = None
    greedy: Greedy = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How a model is held and run, and where it ends."""

    eos: Eos = None
    device: Device = "auto"
    dtype: ComputeType = None
    compile_model: Compile = False
    tokenizer_path: TokenizerPath = None
    quantization_encoding: Encoding = None
