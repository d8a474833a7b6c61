"""Hugging Face's format: `config.json`, `model*.safetensors` or `pytorch_model*.bin` with an index, `tokenizer.json`.

Sources: transformers models/llama (names, rotate_half), configuration_llama.py (both dialects of RoPE keys).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_convert.convert.architecture import Role, Rotary, Weight
from llama_convert.convert.assembly import assemble
from llama_convert.convert.checkpoint import Checkpoint, Parts
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.format import Assertions, Format, Head
from llama_convert.convert.formats.huggingface_config import read_config, refuse_foreign
from llama_convert.convert.formats.huggingface_files import side_files
from llama_convert.convert.formats.huggingface_quantised import decoded_dtype, unpack
from llama_convert.convert.formats.huggingface_tokens import find_tokenizer
from llama_convert.convert.formats.huggingface_weights import lay_out_files, open_files, weight_files
from llama_convert.convert.json_files import read_object
from llama_convert.convert.outputs import Output, Request
from llama_convert.convert.plan import tensors
from llama_convert.convert.sameness import same
from llama_convert.convert.versions import confirm, evidence_of


def recognises(path: Path) -> bool:
    """Whether the folder holds weights in the way of Hugging Face."""
    return (path / "config.json").is_file() and weight_files(path)


def open_huggingface(form: Format, folder: Path, assertions: Assertions) -> Checkpoint:
    """The checkpoint in a Hugging Face folder, from its JSON files and the indexes of its weight files.

    Raises CheckpointError: another architecture, an unknown quantisation, missing sizes, missing, unknown or
    misshapen tensors, files that the index names but the folder lacks.
    """
    values = read_object(folder / "config.json")
    refuse_foreign(folder, values)
    files = open_files(folder)
    plain, scaled = unpack(folder, values, files)
    # Where config.json does not tie the head, transformers fills a missing one with random numbers.
    stored = any(form.names[Role.HEAD] in file.tensors for file in plain) or form.names[Role.HEAD] in scaled
    config = read_config(folder, values, tied=values.get("tie_word_embeddings") is True and not stored)
    parts = assemble(form, folder, plain, config, said_by="config.json", scaled=scaled)
    _check_head(folder, values, parts)
    return Checkpoint(
        path=folder,
        format=form,
        config=config,
        versions=confirm(assertions.llama_version, evidence_of(config)),
        parts=parts,
        files=tuple(files),
        tokenizer=find_tokenizer(folder, values),
        dtype=decoded_dtype(parts[Weight(Role.TOKENS)].pieces[0], values),
        rotary=form.rotary,
    )


def _check_head(folder: Path, values: Mapping[str, Any], parts: Mapping[Weight, Parts]) -> None:
    """Readers take the embedding for the head where config.json says so, whatever head is stored."""
    tokens, head = parts[Weight(Role.TOKENS)], parts.get(Weight(Role.HEAD))
    if head and values.get("tie_word_embeddings") and not same(tokens.whole(), head.whole()):
        raise CheckpointError(
            f"{folder / 'config.json'}: tie_word_embeddings is true, but lm_head.weight is not the embedding",
            advice="Set it to false, or remove the head that does not belong there.",
        )


def write_huggingface(form: Format, source: Checkpoint, request: Request, *, marked: str = "pt") -> Output:
    """The checkpoint as a Hugging Face folder; `marked` as in `lay_out_files`."""
    files, index = lay_out_files(tensors(source, form, request), request.shard_size, marked=marked)
    side, notes = side_files(source, request)
    return Output(files=files, side_files=(*index, *side), notes=notes)


HUGGING_FACE = Format(
    name="hf",
    title="Hugging Face safetensors",
    rotary=Rotary.HALVES,
    head=Head.OMITTED,
    names={
        Role.TOKENS: "model.embed_tokens.weight",
        Role.ATTENTION_NORM: "model.layers.{layer}.input_layernorm.weight",
        Role.QUERY: "model.layers.{layer}.self_attn.q_proj.weight",
        Role.KEY: "model.layers.{layer}.self_attn.k_proj.weight",
        Role.VALUE: "model.layers.{layer}.self_attn.v_proj.weight",
        Role.ATTENTION_OUT: "model.layers.{layer}.self_attn.o_proj.weight",
        Role.FFN_NORM: "model.layers.{layer}.post_attention_layernorm.weight",
        Role.GATE: "model.layers.{layer}.mlp.gate_proj.weight",
        Role.UP: "model.layers.{layer}.mlp.up_proj.weight",
        Role.DOWN: "model.layers.{layer}.mlp.down_proj.weight",
        Role.FINAL_NORM: "model.norm.weight",
        Role.HEAD: "lm_head.weight",
    },
    ignored=("model.layers.{layer}.self_attn.rotary_emb.inv_freq",),
    recognises=recognises,
    opener=open_huggingface,
    writer=write_huggingface,
    options=("shard_size",),
)
