"""Meta's own format: `consolidated.NN.pth` model-parallel shards, `params.json`, `tokenizer.model`.

Sources: meta-llama/llama-models models/llama3/model.py, meta-llama/llama llama/model.py (axes of the shards).
"""

from __future__ import annotations

import re
from pathlib import Path

from llama_convert.convert.architecture import LlamaConfig, Role, RopeScaling, Rotary, Weight
from llama_convert.convert.checklist import check_listed
from llama_convert.convert.checkpoint import Checkpoint, TokenizerFile
from llama_convert.convert.claims import read_claims
from llama_convert.convert.containers.pth import read_pth
from llama_convert.convert.containers.slices import TensorFile
from llama_convert.convert.containers.sources import byte_source
from llama_convert.convert.errors import CheckpointError, counted
from llama_convert.convert.format import Assertions, Format, Head
from llama_convert.convert.formats.meta_fp8 import read_scaled
from llama_convert.convert.formats.meta_params import Params, read_params
from llama_convert.convert.formats.meta_shards import copies_of_kv_heads, is_tied, merge
from llama_convert.convert.formats.meta_writer import write_meta
from llama_convert.convert.formats.tokenizer_files import find_tokenizer_model
from llama_convert.convert.reading import collect
from llama_convert.convert.tokenizers.kinds import TokenizerKind
from llama_convert.convert.versions import VERSIONS, Evidence, Version, confirm, rope_scaling

_SHARD = re.compile(r"consolidated\.(\d\d)\.pth")


def recognises(path: Path) -> bool:
    """Whether the folder holds Meta's files, complete or not."""
    return path.is_dir() and (bool(_shard_paths(path)) or (path / "params.json").exists())


def open_meta(form: Format, folder: Path, assertions: Assertions) -> Checkpoint:
    """The checkpoint in a folder of Meta's: any number of shards, of any Llama text model.

    Reads the shards' indexes, `params.json`, and as many weights as it takes to see whether the head is
    tied and kv heads are repeated. Raises CheckpointError with everything that does not fit.
    """
    params = read_params(folder)
    check_listed(folder)
    files = _open_shards(folder)
    scales, scaled = read_scaled(form, files)
    merged = merge(form, files, params, scaled)
    tokenizer = find_tokenizer_model(folder)
    kv_copies = copies_of_kv_heads(merged, params)
    kv_heads = merged[Weight(Role.KEY, 0)].whole().shape[0] // params.head_dim // kv_copies
    tied = is_tied(merged)
    evidence = _evidence(params, tokenizer, grouped=kv_heads < params.heads, tied=tied)
    _check_tokenizer(evidence, tokenizer)
    versions = _claimed(folder, confirm(assertions.llama_version, evidence))
    config = LlamaConfig(
        hidden_size=params.hidden_size,
        intermediate_size=merged[Weight(Role.GATE, 0)].whole().shape[0],
        layers=params.layers,
        heads=params.heads,
        kv_heads=kv_heads,
        head_dim=params.head_dim,
        vocab_size=merged[Weight(Role.TOKENS)].whole().shape[0],
        norm_eps=params.norm_eps,
        rope_theta=evidence.rope_theta,
        rope_scaling=rope_scaling(versions[0], evidence),
        context=versions[0].context,
        tied=tied,
    )
    return Checkpoint(
        path=folder,
        format=form,
        config=config,
        versions=versions,
        parts=merged,
        files=(*files, *scales),
        tokenizer=tokenizer,
        dtype=merged[Weight(Role.TOKENS)].whole().dtype,
        rotary=form.rotary,
        kv_copies=kv_copies,
        notes=_factor_note(config.rope_scaling, versions),
    )


def _shard_paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _SHARD.fullmatch(path.name))


def _open_shards(folder: Path) -> tuple[TensorFile, ...]:
    paths = _shard_paths(folder)
    if not paths:
        raise CheckpointError(
            f"{folder}: params.json is here, but no consolidated.NN.pth",
            advice="Download the weights as well.",
        )
    numbers = [int(_SHARD.fullmatch(path.name)[1]) for path in paths]  # type: ignore[index]
    missing = sorted(set(range(max(numbers) + 1)) - set(numbers))
    if missing:
        raise CheckpointError(
            f"{folder}: {counted(len(missing), 'shard')} of {max(numbers) + 1} missing",
            problems=[f"consolidated.{number:02}.pth" for number in missing],
            advice="Download the missing files into the same folder.",
        )
    files = collect([lambda path=path: read_pth(byte_source(path)) for path in paths])  # type: ignore[misc]
    _check_stems(files)
    return tuple(files)


def _check_stems(files: list[TensorFile]) -> None:
    """torch.save writes the file's name into the file: a shard under another shard's name betrays itself."""
    problems = [
        f"{file.path.name} was saved as {file.stem}.pth"
        for file in files
        if file.stem is not None and _SHARD.fullmatch(f"{file.stem}.pth") and file.stem != file.path.stem
    ]
    if problems:
        raise CheckpointError(
            f"{files[0].path.parent}: the shards are not in their order",
            problems=problems,
            advice="Give every shard the name it was saved under.",
        )


def _check_tokenizer(evidence: Evidence, tokenizer: TokenizerFile | None) -> None:
    if tokenizer and tokenizer.kind is TokenizerKind.SENTENCEPIECE and evidence.scaled:
        raise CheckpointError(
            f"{tokenizer.path}: the wrong tokenizer: a SentencePiece model, as up to Llama 2, "
            "but params.json says use_scaled_rope, as from Llama 3.1 on",
            advice="Copy the tokenizer.model that came with these weights into their folder.",
        )


def _evidence(params: Params, tokenizer: TokenizerFile | None, *, grouped: bool, tied: bool) -> Evidence:
    kind = tokenizer.kind if tokenizer else params.likely_tokenizer
    # The defaults of Meta's code: theta was not a parameter before Code Llama, and is 500000 in Llama 3's.
    default_theta = 500000.0 if kind is TokenizerKind.TIKTOKEN else 10000.0
    return Evidence(
        tokenizer=kind,
        scaled=params.scaled,
        rope_factor=None,
        rope_theta=params.rope_theta or default_theta,
        norm_eps=params.norm_eps,
        hidden_size=params.hidden_size,
        layers=params.layers,
        grouped=grouped,
        tied=tied,
    )


def _claimed(folder: Path, fits: tuple[Version, ...]) -> tuple[Version, ...]:
    """The version that a converted folder says it is of, where that is among those that fit."""
    claimed = read_claims(folder).llama_version
    return tuple(version for version in fits if version.name == claimed) or fits


def _factor_note(scaling: RopeScaling | None, versions: tuple[Version, ...]) -> tuple[str, ...]:
    """Meta's files do not hold the RoPE factor; where their sizes are no release's, the user may know better."""
    names = {version.name for version in versions}
    if scaling is None or not {"3.1", "3.2"} <= names:
        return ()
    other = VERSIONS["3.2" if scaling.factor == VERSIONS["3.1"].rope_factor else "3.1"]
    return (
        f"taken as {versions[0].title}, with RoPE factor {scaling.factor:g}: no file says so, and "
        f"{other.title} has {other.rope_factor:g}. --llama-version tells.",
    )


META = Format(
    name="meta",
    title="Meta consolidated.NN.pth",
    rotary=Rotary.PAIRS,
    head=Head.STORED,
    names={
        Role.TOKENS: "tok_embeddings.weight",
        Role.ATTENTION_NORM: "layers.{layer}.attention_norm.weight",
        Role.QUERY: "layers.{layer}.attention.wq.weight",
        Role.KEY: "layers.{layer}.attention.wk.weight",
        Role.VALUE: "layers.{layer}.attention.wv.weight",
        Role.ATTENTION_OUT: "layers.{layer}.attention.wo.weight",
        Role.FFN_NORM: "layers.{layer}.ffn_norm.weight",
        Role.GATE: "layers.{layer}.feed_forward.w1.weight",
        Role.UP: "layers.{layer}.feed_forward.w3.weight",
        Role.DOWN: "layers.{layer}.feed_forward.w2.weight",
        Role.FINAL_NORM: "norm.weight",
        Role.HEAD: "output.weight",
    },
    ignored=("rope.freqs", "layers.{layer}.attention.inner_attention.rope.freqs"),
    recognises=recognises,
    opener=open_meta,
    writer=write_meta,
    options=("shards",),
)
