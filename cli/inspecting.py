"""`inspect`: what a checkpoint is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from llama_convert.cli import options
from llama_convert.cli.output import Output, gigabytes, table

if TYPE_CHECKING:
    from llama_convert.convert import Inspection
    from llama_convert.verify.fingerprint import Fingerprint


def inspect(
    source: options.Source,
    tensors: Annotated[bool, Option("--tensors", help="List every tensor.")] = False,
    fingerprint: Annotated[
        bool,
        Option("--fingerprint", help="Digests of the weights, the same in every lossless format. Reads all of them."),
    ] = False,
    llama_version: options.LlamaVersion = None,
    assume: options.Assume = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what a checkpoint is: version, sizes, types, memory needed."""
    from llama_convert.cli.sizes import parse_assumptions
    from llama_convert.convert import inspect_checkpoint

    output = Output(json=json, quiet=quiet)
    assumed = parse_assumptions(assume or [])
    found = inspect_checkpoint(source, llama_version, assumed)
    output.result(_text(found))
    if tensors:
        output.result("\n" + _tensor_table(found))
    taken = _fingerprint(source, llama_version, assumed, output) if fingerprint else None
    if taken:
        output.result("\n" + _fingerprint_table(taken))
    digests = {"fingerprint": _fingerprint_json(taken)} if taken else {}
    output.data({"ok": True, **found.as_json(tensors=tensors), **digests})


def _fingerprint(source: Path, llama_version: str | None, assumed: dict[str, str], output: Output) -> Fingerprint:
    from llama_convert.convert import open_checkpoint
    from llama_convert.verify.fingerprint import fingerprint

    checkpoint = open_checkpoint(source, llama_version, assumed)
    with output.progress(checkpoint.config.parameters * checkpoint.dtype.nbytes, source.name) as update:
        return fingerprint(checkpoint, update)


def _fingerprint_table(found: Fingerprint) -> str:
    rows = [("weight", "sha256"), *((str(weight), digest) for weight, digest in found.weights.items())]
    return table([*rows, ("all weights", found.model)])


def _fingerprint_json(found: Fingerprint) -> dict[str, object]:
    return {"model": found.model, "weights": {str(weight): digest for weight, digest in found.weights.items()}}


def _text(found: Inspection) -> str:
    from llama_convert.convert.containers.slices import DType
    from llama_convert.convert.errors import counted

    first, *others = found.versions
    config = found.config
    scaling = config.rope_scaling
    rope = f"theta {config.rope_theta:g}" + (f", llama3 scaling x{scaling.factor:g}" if scaling else ", not scaled")
    kv = f"{config.kv_heads} kv heads" + (f" (each stored {found.kv_copies} times)" if found.kv_copies > 1 else "")
    rows = [
        ("path", str(found.path)),
        ("format", f"{found.format}, {gigabytes(found.nbytes)} in {counted(found.shards, 'weight file')}"),
        ("version", first + (f"  (would also fit {', '.join(others)})" if others else "")),
        ("parameters", f"{config.parameters:,}" + (", output head tied to the embedding" if config.tied else "")),
        ("dtype", ", ".join(found.dtypes)),
        ("layers", f"{config.layers} of {config.hidden_size}, feed-forward {config.intermediate_size}"),
        ("attention", f"{config.heads} heads of {config.head_dim}, {kv}"),
        ("rope", f"{rope}, context {config.context:,}"),
        ("norm eps", f"{config.norm_eps:g}"),
        ("vocabulary", f"{config.vocab_size:,}"),
        ("tokenizer", f"{found.tokenizer[0]}, {found.tokenizer[1]}" if found.tokenizer else "none found"),
        (
            "memory",
            f"{gigabytes(found.memory(DType.FLOAT32))} in float32, "
            f"{gigabytes(found.memory(DType.BFLOAT16))} in bfloat16 (weights alone)",
        ),
    ]
    return table(rows)


def _tensor_table(found: Inspection) -> str:
    rows = [("tensor", "dtype", "shape", "bytes", "offset", "file")]
    rows += [
        (tensor.name, tensor.dtype, str(list(tensor.shape)), f"{tensor.nbytes:,}", f"{tensor.offset:,}", tensor.file)
        for tensor in found.tensors
    ]
    return table(rows)
