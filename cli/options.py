"""The options that several commands share, each worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

UnfetchedSource = Annotated[
    Path,
    Argument(
        metavar="SRC",
        help="Folder or file with the checkpoint; or organisation/name[@revision] on the Hub, without download.",
        show_default=False,
    ),
]
_SOURCE = Argument(
    metavar="SRC", help="Folder or file with the checkpoint, or org/name[@revision] on the Hub.", show_default=False
)
Source = Annotated[Path, _SOURCE]
MaybeSource = Annotated[Path | None, _SOURCE]
What = Annotated[
    str | None,
    Option(
        "--what",
        help="Which checkpoint of a repository: hf, original or gguf; where there are several, such as gguf:Q4_0 or "
        "original:mp8; to download also tokenizer, config. Left out: the one that suits best.",
        show_default=False,
    ),
]
Target = Annotated[Path, Argument(metavar="DST", help="Folder to write; must not exist yet.", show_default=False)]
LlamaVersion = Annotated[
    str | None,
    Option(
        "--llama-version",
        help="Assert the Llama version (1, 2, code, 3, 3.1, 3.2, 3.3, guard-1, guard-2, guard-3). The files tell it "
        "by themselves; where they contradict you, nothing is written.",
        show_default=False,
    ),
]
Instruct = Annotated[
    bool, Option("--instruct/--no-instruct", help="A chat model: writes end tokens and chat template for it.")
]
DTypeName = Annotated[
    str | None, Option("--dtype", help="Cast to float32, bfloat16 or float16 (default: keep).", show_default=False)
]
ShardSize = Annotated[
    str | None,
    Option(
        "--shard-size",
        help="Largest weight file, such as 5GB or 512MiB (hf and mlx: 5GB; gguf: one file).",
        show_default=False,
    ),
]
Shards = Annotated[int | None, Option("--shards", help="Model-parallel files to write (meta: 1).", show_default=False)]
Quantize = Annotated[
    str | None,
    Option("--quantize", help="Type of all matrices: q4_0, q8_0 (gguf), q8_0 (llama2c).", show_default=False),
]
OutputType = Annotated[
    str | None,
    Option("--output-type", help="Type of the output head instead (gguf).", show_default=False),
]
EmbeddingType = Annotated[
    str | None,
    Option("--embedding-type", help="Type of the token embedding instead (gguf).", show_default=False),
]
FormatVersion = Annotated[
    int | None,
    Option("--format-version", help="Version of the file format (llama2c: 0, 1 or 2).", show_default=False),
]
Assume = Annotated[
    list[str] | None,
    Option(
        "--assume",
        metavar="NAME=VALUE",
        help="A value that the input's files do not hold, such as heads=32; may be repeated.",
        show_default=False,
    ),
]
SpecialTokens = Annotated[
    list[str] | None,
    Option("--special-tokens", help="Names of the special tokens in the order of their ids.", show_default=False),
]
Pad = Annotated[
    bool,
    Option("--pad", help="Give the model a token to pad with, if it has none: as pad does."),
]
SameFormat = Annotated[
    str | None, Option("--to", help="Format to write (default: the source's own).", show_default=False)
]
MultipleOf = Annotated[
    int | None,
    Option("--multiple-of", help="Round the rows up to a multiple, such as 64 for tensor cores.", show_default=False),
]
InPlace = Annotated[
    bool,
    Option("--in-place", help="Change the Hugging Face folder SRC itself; no DST. What stays is not rewritten."),
]
MaybeTarget = Annotated[
    Path | None,
    Argument(metavar="DST", help="Folder to write; must not exist yet. None with --in-place.", show_default=False),
]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace an existing model folder, at the very end.")]
NoCheck = Annotated[bool, Option("--no-check", help="Do not hold what is read against its checksums.")]
DryRun = Annotated[bool, Option("--dry-run", help="Print the plan and write nothing.")]
Verify = Annotated[bool, Option("--verify", help="Prove afterwards that the output is the same model.")]
VerifyHub = Annotated[
    bool | None,
    Option(
        "--verify/--no-verify",
        help="Prove afterwards that the output is the same model (default: only for a source on the Hub).",
        show_default=False,
    ),
]
Json = Annotated[bool, Option("--json", help="Print one JSON object, also on failure.")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="Print results only.")]
TokenizerPath = Annotated[
    Path | None,
    Option(
        "--tokenizer-path",
        metavar="FILE",
        help="The tokenizer, of whatever kind: tokenizer.model, tokenizer.json, .gguf, tokenizer.bin (default: the "
        "model's own).",
        show_default=False,
    ),
]
