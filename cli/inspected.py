"""What `inspect` shows of a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_convert.cli.output import count, gigabytes, table
from llama_convert.convert.errors import counted

if TYPE_CHECKING:
    from llama_convert.convert import Checkpoint, Inspection


def headline(source: Checkpoint) -> str:
    """A checkpoint in one line."""
    return (
        f"{source.path}: {source.version.title}, {count(source.config.parameters)} parameters, "
        f"{source.dtype.label}, {source.format.name} in {counted(len(source.files), 'file')}"
    )


def figures(found: Inspection) -> list[tuple[str, str]]:
    """What a checkpoint is, as rows of a name and its value."""
    from llama_convert.convert.containers.slices import DType

    first, *others = found.versions
    config = found.config
    scaling = config.rope_scaling
    rope = f"theta {config.rope_theta:g}" + (f", llama3 scaling x{scaling.factor:g}" if scaling else ", not scaled")
    kv = f"{config.kv_heads} kv heads" + (f" (each stored {found.kv_copies} times)" if found.kv_copies > 1 else "")
    return [
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


def tensor_table(found: Inspection) -> str:
    """Every stored tensor, one a line."""
    rows = [("tensor", "dtype", "shape", "bytes", "offset", "file")]
    rows += [
        (tensor.name, tensor.dtype, str(list(tensor.shape)), f"{tensor.nbytes:,}", f"{tensor.offset:,}", tensor.file)
        for tensor in found.tensors
    ]
    return table(rows)
