"""litgpt's format: `lit_model.pth` with q, k and v as one tensor, `model_config.yaml`, Hugging Face's tokenizer files.

Sources: litgpt 0.5.9 model.py (names, the fused tensor), scripts/convert_hf_checkpoint.py (qkv_reassemble: how
the rows lay before), tokenizer.py (what it reads).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from llama_convert.convert.architecture import LlamaConfig, Role, Rotary, Weight
from llama_convert.convert.assembly import assemble
from llama_convert.convert.checkpoint import Checkpoint, Parts
from llama_convert.convert.containers.pth import read_pth
from llama_convert.convert.containers.slices import TensorFile
from llama_convert.convert.containers.sources import byte_source
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.format import Assertions, Format, Head
from llama_convert.convert.formats.huggingface_files import generation_config
from llama_convert.convert.formats.huggingface_tokens import find_tokenizer
from llama_convert.convert.formats.litgpt_config import CONFIG, config_file, read_config
from llama_convert.convert.formats.pth_files import pth_file
from llama_convert.convert.formats.tokenizer_files import tokenizer_json_files
from llama_convert.convert.outputs import Output, Request
from llama_convert.convert.plan import tensors
from llama_convert.convert.sameness import same
from llama_convert.convert.tokens import Tokens, open_tokens
from llama_convert.convert.versions import Version, confirm, evidence_of

_WEIGHTS = "lit_model.pth"
_FUSED = "transformer.h.{layer}.attn.qkv.weight"
# In older files: the rows of each kv head's queries, its key and its value, then those of the next kv head.
_GROUPED = "transformer.h.{layer}.attn.attn.weight"
_FUSED_ROLES = (Role.QUERY, Role.KEY, Role.VALUE)


def recognises(path: Path) -> bool:
    """Whether the path is litgpt's weight file, or a folder with that or its config."""
    if path.is_dir():
        return (path / _WEIGHTS).is_file() or (path / CONFIG).is_file()
    return path.name == _WEIGHTS


def open_litgpt(form: Format, path: Path, assertions: Assertions) -> Checkpoint:
    """The checkpoint in a folder of litgpt's, of the present or of the former layout of q, k and v.

    Raises CheckpointError: no weights, another architecture, missing sizes, missing, unknown or misshapen tensors.
    Cost: where the output head lies apart from the embedding, both are read, to see whether they are the same.
    """
    folder = path if path.is_dir() else path.parent
    file = _open_weights(folder)
    config = read_config(folder)
    named = _named_as(form, file)
    parts = assemble(named, folder, [file], config, said_by=CONFIG)
    if named is not form:
        parts |= dict(_ungrouped(named, file, config))
    tied = same(parts[Weight(Role.TOKENS)].whole(), parts[Weight(Role.HEAD)].whole())
    config = replace(config, tied=tied)
    return Checkpoint(
        path=path,
        format=named,
        config=config,
        versions=confirm(assertions.llama_version, evidence_of(config)),
        parts=parts,
        files=(file,),
        tokenizer=find_tokenizer(folder, {}),
        dtype=parts[Weight(Role.TOKENS)].whole().dtype,
        rotary=form.rotary,
    )


def _open_weights(folder: Path) -> TensorFile:
    path = folder / _WEIGHTS
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: {CONFIG} is here, but no {_WEIGHTS}",
            advice="Copy the weights as well; sharded ones must be joined by litgpt first.",
        )
    return read_pth(byte_source(path), nested=("model",))  # as finetuning saves it


def _named_as(form: Format, file: TensorFile) -> Format:
    """The format with the names of the former layout, where the file has those."""
    if _GROUPED.format(layer=0) not in file.tensors:
        return form
    return replace(form, names={**form.names, **dict.fromkeys(_FUSED_ROLES, _GROUPED)})


def _ungrouped(form: Format, file: TensorFile, config: LlamaConfig) -> Iterator[tuple[Weight, Parts]]:
    """q, k and v of every layer, each gathered from all the groups of its tensor."""
    sizes = [config.heads // config.kv_heads * config.head_dim, config.head_dim, config.head_dim]
    starts = [0, sizes[0], sizes[0] + sizes[1]]
    for layer in range(config.layers):
        tensor = file.tensors[form.name_of(Weight(Role.QUERY, layer))]
        for role, start, size in zip(_FUSED_ROLES, starts, sizes, strict=True):
            begins = (group * sum(sizes) + start for group in range(config.kv_heads))
            yield Weight(role, layer), Parts(tuple(tensor.rows(begin, begin + size) for begin in begins), 0)


def write_litgpt(form: Format, source: Checkpoint, request: Request) -> Output:
    """The checkpoint as a folder of litgpt's."""
    tokens = open_tokens(source, request)
    return Output(
        files=(pth_file(_WEIGHTS, tensors(source, form, request)),),
        side_files=(
            config_file(source.config, _name(source.version, tokens)),
            *tokenizer_json_files(source, tokens, says_begin=True),
            generation_config(source, tokens),
        ),
    )


def _name(version: Version, tokens: Tokens) -> str:
    """The name by which litgpt chooses how prompts are made. Source: litgpt prompts.py, model_name_to_prompt_style."""
    chat = tokens.conventions.chat_template is not None
    name = {"2": "Llama-2", "code": "CodeLlama"}.get(version.name, f"Llama-{version.name}")
    return name + (("-chat" if version.name == "2" else "-Instruct") if chat else "")


LITGPT = Format(
    name="litgpt",
    title="litgpt lit_model.pth",
    rotary=Rotary.HALVES,
    head=Head.STORED,
    names={
        Role.TOKENS: "transformer.wte.weight",
        Role.ATTENTION_NORM: "transformer.h.{layer}.norm_1.weight",
        **dict.fromkeys(_FUSED_ROLES, _FUSED),
        Role.ATTENTION_OUT: "transformer.h.{layer}.attn.proj.weight",
        Role.FFN_NORM: "transformer.h.{layer}.norm_2.weight",
        Role.GATE: "transformer.h.{layer}.mlp.fc_1.weight",
        Role.UP: "transformer.h.{layer}.mlp.fc_2.weight",
        Role.DOWN: "transformer.h.{layer}.mlp.proj.weight",
        Role.FINAL_NORM: "transformer.ln_f.weight",
        Role.HEAD: "lm_head.weight",
    },
    recognises=recognises,
    opener=open_litgpt,
    writer=write_litgpt,
)
