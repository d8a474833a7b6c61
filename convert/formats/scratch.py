"""The format of the book "Build a Large Language Model From Scratch": one `.pth` with the state dict of its class.

Sources: rasbt/LLMs-from-scratch pkg/llms_from_scratch/llama3.py (1.0.19) and ch05/07_gpt_to_llama (older classes).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_convert.convert.architecture import LlamaConfig, Role, Rotary, Weight
from llama_convert.convert.assembly import assemble, untied, widened_norms
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.slices import TensorFile
from llama_convert.convert.expressions import stored
from llama_convert.convert.format import Assertions, Format, Head
from llama_convert.convert.formats.pth_files import pth_file
from llama_convert.convert.formats.scratch_assumed import ASSUMABLE, read_assumed
from llama_convert.convert.formats.scratch_config import CONFIG, config_files, read_config
from llama_convert.convert.formats.scratch_files import holds_scratch, notes_on, open_file
from llama_convert.convert.formats.scratch_notes import reading_notes, refuse_misfits, writing_notes
from llama_convert.convert.formats.scratch_rope import Tables, read_tables
from llama_convert.convert.formats.scratch_sizes import find_values, make_config, read_shapes
from llama_convert.convert.formats.tokenizer_files import find_tokenizer_model, tokenizer_model_files
from llama_convert.convert.outputs import Output, Request, Tensor
from llama_convert.convert.plan import tensors
from llama_convert.convert.sameness import same
from llama_convert.convert.tokens import open_tokens
from llama_convert.convert.versions import confirm, evidence_of

_WEIGHTS = "scratch.pth"
# The order in which the class's state_dict() gives the tensors of a layer.
_ORDER = (
    Role.KEY,
    Role.VALUE,
    Role.QUERY,
    Role.ATTENTION_OUT,
    Role.GATE,
    Role.UP,
    Role.DOWN,
    Role.ATTENTION_NORM,
    Role.FFN_NORM,
)


def open_scratch(form: Format, path: Path, assertions: Assertions) -> Checkpoint:
    """The checkpoint in a `.pth` of the book's, or in the folder that holds one.

    Sizes are those of `scratch_config.json` beside it; without one, those of the shapes, and what no shape shows
    is from what is assumed, tables in the file, or the release that has these shapes.
    Raises CheckpointError: a damaged or foreign file, sizes that nothing tells, missing, unknown or misshapen
    tensors. UsageError: a folder with several files, assumptions that are none.
    """
    assumed = read_assumed(assertions.assumed)
    file = open_file(form, path)
    tables = read_tables(file)
    config, said_by, notes = _config(form, file, tables, assertions.llama_version, assumed)
    parts = assemble(form, file.path, [file], untied(config), said_by=said_by)
    dtype = parts[Weight(Role.TOKENS)].whole().dtype
    leftovers = {name: tensor for name, tensor in file.tensors.items() if form.ignores(name)}
    return Checkpoint(
        path=path,
        format=form,
        config=config,
        versions=confirm(assertions.llama_version, evidence_of(config)),
        parts=parts,
        files=(file,),
        tokenizer=find_tokenizer_model(file.path.parent),
        dtype=dtype,
        rotary=assumed.get("rotary", form.rotary),
        widened=widened_norms(parts, dtype),
        notes=(*notes, *notes_on(file, leftovers), *reading_notes(file, config, tables, assumed)),
    )


def _config(
    form: Format, file: TensorFile, tables: Tables | None, asked: str | None, assumed: Mapping[str, Any]
) -> tuple[LlamaConfig, str, tuple[str, ...]]:
    """The config, what said its sizes, and notes on where its values are from."""
    tied, beside = _is_tied(form, file), file.path.parent / CONFIG
    if beside.is_file():
        shapes, values = read_config(beside)
        return make_config(beside, shapes, {**values, **assumed}, assumed, tied=tied), CONFIG, ()
    shapes = read_shapes(form, file)
    values, notes = find_values(file.path, shapes, tables, asked, assumed, tied=tied)
    config = make_config(file.path, shapes, values, assumed, tied=tied)
    return config, "the shape of the others", notes


def _is_tied(form: Format, file: TensorFile) -> bool:
    """Whether the head is the embedding, in one storage or in two equal ones."""
    tokens, head = (file.tensors.get(form.names[role]) for role in (Role.TOKENS, Role.HEAD))
    return tokens is not None and head is not None and same(stored(tokens), stored(head))


def write_scratch(form: Format, source: Checkpoint, request: Request) -> Output:
    """`scratch.pth`, its configuration twice, and `tokenizer.model`.

    All tensors are of one type, as the classes compute in one. A tied head is there under its name, in the
    storage of the embedding. Raises UsageError for a model that no class of the book computes.
    """
    refuse_misfits(source.config)
    tokenizer, notes = tokenizer_model_files(source, open_tokens(source, request))
    dtype = request.dtype or source.dtype
    wanted = sorted(tensors(source, form, request, lambda weight: dtype), key=_place)
    return Output(
        files=(pth_file(_WEIGHTS, wanted),),
        side_files=(*config_files(source.config, dtype, _WEIGHTS), *tokenizer),
        notes=(*writing_notes(source, request, dtype), *notes),
    )


def _place(tensor: Tensor) -> tuple[int, int, int]:
    """Before, in or behind the layers; which layer; the place in it."""
    (weight,) = tensor.weights
    if weight.layer is not None:
        return 1, weight.layer, _ORDER.index(weight.role)
    return {Role.TOKENS: 0, Role.FINAL_NORM: 2, Role.HEAD: 3}[weight.role], 0, 0


def _recognises(path: Path) -> bool:
    return holds_scratch(SCRATCH, path)


SCRATCH = Format(
    name="scratch",
    title="LLMs-from-scratch .pth",
    rotary=Rotary.HALVES,
    head=Head.STORED,
    names={
        Role.TOKENS: "tok_emb.weight",
        Role.ATTENTION_NORM: "trf_blocks.{layer}.norm1.weight",
        Role.QUERY: "trf_blocks.{layer}.att.W_query.weight",
        Role.KEY: "trf_blocks.{layer}.att.W_key.weight",
        Role.VALUE: "trf_blocks.{layer}.att.W_value.weight",
        Role.ATTENTION_OUT: "trf_blocks.{layer}.att.out_proj.weight",
        Role.FFN_NORM: "trf_blocks.{layer}.norm2.weight",
        Role.GATE: "trf_blocks.{layer}.ff.fc1.weight",
        Role.UP: "trf_blocks.{layer}.ff.fc2.weight",
        Role.DOWN: "trf_blocks.{layer}.ff.fc3.weight",
        Role.FINAL_NORM: "final_norm.weight",
        Role.HEAD: "out_head.weight",
    },
    ignored=(
        *("mask", "cos", "sin"),
        *(f"trf_blocks.{{layer}}.att.{name}" for name in ("mask", "cos", "sin")),
    ),
    recognises=_recognises,
    opener=open_scratch,
    writer=write_scratch,
    assumable=ASSUMABLE,
)
