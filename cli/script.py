"""The command line of the conversion script that transformers used to ship, option by option."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from llama_convert.cli import options
from llama_convert.cli.converting import carry_out, conversion_json, parse_request
from llama_convert.cli.output import Output
from llama_convert.cli.plans import plan_json, plan_text

if TYPE_CHECKING:
    from llama_convert.convert import Plan

_TOKENIZER_ONLY = "tokenizer_only"
# Parameters, in billions, that a size's name stands for; a trailing f was the old script's for chat models.
_NAMED_SIZES = {"1B": 1.2, "3B": 3.2, "7B": 6.7, "8B": 8.0, "13B": 13.0, "30B": 32.5, "34B": 33.7, "65B": 65.2,
                "70B": 69.8, "405B": 405.9}  # fmt: skip
_TOLERANCE = 0.06


def script(
    input_dir: Annotated[Path, Option("--input-dir", help="Folder with Meta's files.", show_default=False)],
    output_dir: Annotated[
        str, Option("--output-dir", help="Folder to write; with --push-to-hub also the repository.", show_default=False)
    ],
    model_size: Annotated[
        str | None,
        Option("--model-size", help="7B, 8B, ..., held against the files; tokenizer_only.", show_default=False),
    ] = None,
    num_shards: Annotated[
        int | None, Option("--num-shards", help="Number of shards, held against the files.", show_default=False)
    ] = None,
    llama_version: options.LlamaVersion = None,
    instruct: options.Instruct = False,
    special_tokens: options.SpecialTokens = None,
    safe_serialization: Annotated[
        bool, Option("--safe-serialization/--no-safe-serialization", help="Always on: safetensors are written.")
    ] = True,
    push_to_hub: Annotated[bool, Option("--push-to-hub/--no-push-to-hub", help="Upload the result as well.")] = False,
    dtype: options.DTypeName = None,
    shard_size: options.ShardSize = None,
    overwrite: options.Overwrite = False,
    no_check: options.NoCheck = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Convert Meta's files to Hugging Face's, with the options of convert_llama_weights_to_hf.py."""
    from llama_convert.convert import UsageError, plan_conversion
    from llama_convert.convert.readers import reading

    if not safe_serialization:
        raise UsageError("--safe_serialization False: only safetensors are written", advice="Leave the option out.")
    output = Output(json=json, quiet=quiet)
    request = parse_request(dtype, shard_size, instruct, special_tokens)
    plan = plan_conversion(_input(input_dir, model_size), request=request, llama_version=llama_version)
    if model_size == _TOKENIZER_ONLY:
        plan = plan.tokenizer_only()
    else:
        _hold_against_files(plan, model_size, num_shards)
    if dry_run:
        output.result(plan_text(plan))
        output.data({"ok": True, "plan": plan_json(plan)})
        return
    repository = _open_repository(output_dir) if push_to_hub else None
    with reading(plan.source.path):
        done = carry_out(plan, Path(output_dir), overwrite=overwrite, check=not no_check, output=output)
    if repository:
        _push(done.folder, repository, output)
    output.data({"ok": True, **conversion_json(done)})


def _input(folder: Path, model_size: str | None) -> Path:
    """Llama 1's files lay in a subfolder named after their size; the script looked there too."""
    inner = folder / (model_size or "")
    return inner if (inner / "params.json").exists() else folder


def _hold_against_files(plan: Plan, model_size: str | None, num_shards: int | None) -> None:
    from llama_convert.convert import CheckpointError

    problems = []
    found = len(plan.source.files)
    if num_shards is not None and num_shards != found:
        problems.append(f"--num_shards {num_shards}: the folder has {found}")
    problem = _size_problem(plan, model_size)
    if problems or problem:
        raise CheckpointError(
            f"{plan.source.path}: the options contradict the files",
            problems=[*problems, *([problem] if problem else [])],
            advice="Leave the options out to go by the files.",
        )


def _size_problem(plan: Plan, model_size: str | None) -> str | None:
    if model_size is None:
        return None
    billions = _NAMED_SIZES.get(model_size.upper().removesuffix("-MP16").removesuffix("F"))
    actual = plan.source.config.parameters / 1e9
    if billions is None:
        return f"--model_size {model_size}: there is no such size; the files have {actual:.2f} B parameters"
    if abs(actual - billions) > billions * _TOLERANCE:
        return f"--model_size {model_size}: the files have {actual:.2f} B parameters"
    return None


def _open_repository(name: str) -> str:
    """Before the conversion: hours of work are not to end at a missing token."""
    from llama_convert.hub import open_repository

    return open_repository(name)


def _push(folder: Path, repository: str, output: Output) -> None:
    from llama_convert.hub import push

    output.say(f"pushed to {push(folder, repository, quiet=output.quiet).url}")
