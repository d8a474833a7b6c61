"""GGUF's format, for llama.cpp and its kin: one file, or numbered parts, with config and vocabulary inside.

Sources: gguf-py gguf/tensor_mapping.py (names), llama.cpp convert_hf_to_gguf.py (order of q and k, tied heads).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_convert.convert.architecture import Role, Rotary, Weight
from llama_convert.convert.assembly import assemble, widened_norms
from llama_convert.convert.blocks import OpenFiles, read
from llama_convert.convert.checkpoint import Checkpoint, Conventions, TokenizerFile
from llama_convert.convert.containers.gguf_splits import one_of_each, read_split
from llama_convert.convert.containers.slices import FLOATS, DType, TensorFile
from llama_convert.convert.containers.sources import byte_source
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.expressions import Stored
from llama_convert.convert.format import Assertions, Format, Head
from llama_convert.convert.formats.gguf_config import read_config, refuse_foreign
from llama_convert.convert.formats.gguf_files import ROPE_FREQS, write_gguf
from llama_convert.convert.tokenizers.gguf_vocabulary import (
    BEGIN_ID,
    END_ID,
    MODEL,
    PAD_ID,
    PIECES_MODEL,
    RANKS_MODEL,
    TOKENS,
)
from llama_convert.convert.tokenizers.kinds import TokenizerKind
from llama_convert.convert.versions import confirm, evidence_of

_DTYPES = (*FLOATS, *(dtype for dtype in DType if dtype.block > 1))
# The tokens at which an answer of a chat model ends; the file names one of them only.
_ENDS = {RANKS_MODEL: ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"), PIECES_MODEL: ("</s>", "<step>")}
_END_OF_TURN = "<|eot_id|>"  # where this is the end, the model is one for chats, with a template or without


def recognises(path: Path) -> bool:
    """Whether this is a GGUF file, or a folder with such files."""
    if path.is_file():
        return byte_source(path).read(0, 4) == b"GGUF"
    return any(path.glob("*.gguf"))


def open_gguf(form: Format, path: Path, assertions: Assertions) -> Checkpoint:
    """The checkpoint in a GGUF file, in a set of parts by any one of them, or in the only such file of a folder.

    Types that are not floats are read as their values. Raises CheckpointError: another architecture, keys or
    tensors missing, unknown or misshapen, missing parts, another tokenizer's pre-tokenization.
    """
    parts = read_split(_only_file(path) if path.is_dir() else path)
    files = [part.file for part in parts]
    values = parts[0].plain()
    refuse_foreign(files[0].path, values)
    tokens = _tokens_shape(form, path, files)
    tied = all(form.names[Role.HEAD] not in file.tensors for file in files)
    config = read_config(path, values, rows=tokens[0], tied=tied, stretched=_divisors(files))
    found = assemble(form, path, files, config, said_by="its header", dtypes=_DTYPES)
    own = found[Weight(Role.TOKENS)].whole().dtype
    dtype = own if own in FLOATS else DType.BFLOAT16
    kind = TokenizerKind.SENTENCEPIECE if values.get(MODEL) == PIECES_MODEL else TokenizerKind.TIKTOKEN
    return Checkpoint(
        path=path,
        format=form,
        config=config,
        versions=confirm(assertions.llama_version, replace(evidence_of(config), tokenizer=kind)),
        parts=found,
        files=tuple(files),
        tokenizer=TokenizerFile(TokenizerKind.GGUF, files[0].path, conventions(values)) if MODEL in values else None,
        dtype=dtype,
        rotary=form.rotary,
        widened=widened_norms(found, dtype),
    )


def _only_file(folder: Path) -> Path:
    found = one_of_each(sorted(folder.glob("*.gguf")))
    if len(found) > 1:
        raise CheckpointError(
            f"{folder}: holds several GGUF models",
            problems=[path.name for path in found],
            advice="Give the file itself.",
        )
    return found[0]


def _tokens_shape(form: Format, path: Path, files: Sequence[TensorFile]) -> tuple[int, ...]:
    name = form.names[Role.TOKENS]
    for file in files:
        if name in file.tensors:
            return file.tensors[name].shape
    raise CheckpointError(f"{path}: has no {name}", advice="Is it a vocabulary alone? Give a whole model.")


def _divisors(files: Sequence[TensorFile]) -> NDArray[np.float32] | None:
    """What rope_freqs holds, None without it."""
    found = [file.tensors[ROPE_FREQS] for file in files if ROPE_FREQS in file.tensors]
    if not found:
        return None
    if found[0].dtype is not DType.FLOAT32 or len(found[0].shape) != 1:
        raise CheckpointError(
            f"{found[0].file}: {ROPE_FREQS} is {found[0].dtype.label} {found[0].shape}, wanted a row of float32",
            advice="Fetch or convert it again.",
        )
    with OpenFiles() as opened:
        return read(Stored(found[0]), 0, found[0].shape[0], opened).reshape(-1).view(np.float32)


def conventions(values: Mapping[str, Any]) -> Conventions:
    """What a GGUF file's values say of the use of its tokens."""
    end = _id(values, END_ID)
    template = values.get("tokenizer.chat_template")
    return Conventions(
        begin=_id(values, BEGIN_ID),
        end=end,
        ends=() if end is None else _ends(values, end),
        pad=_id(values, PAD_ID),
        chat_template=template if isinstance(template, str) else None,
    )


def _id(values: Mapping[str, Any], key: str) -> int | None:
    found = values.get(key)
    return found if type(found) is int else None


def _ends(values: Mapping[str, Any], end: int) -> tuple[int, ...]:
    """Where an answer is over: of a chat model every end there is, by their names; else the one that is given."""
    names, tokens = _ENDS.get(str(values.get(MODEL)), ()), values.get(TOKENS)
    listed = tokens if isinstance(tokens, (list, tuple)) else ()
    numbers = {text: number for number, text in enumerate(listed) if text in names}
    chat = "tokenizer.chat_template" in values or numbers.get(_END_OF_TURN) == end
    found = tuple(numbers[text] for text in names if text in numbers)
    return found if chat and end in found else (end,)


GGUF = Format(
    name="gguf",
    title="GGUF",
    rotary=Rotary.PAIRS,
    head=Head.OMITTED,
    names={
        Role.TOKENS: "token_embd.weight",
        Role.ATTENTION_NORM: "blk.{layer}.attn_norm.weight",
        Role.QUERY: "blk.{layer}.attn_q.weight",
        Role.KEY: "blk.{layer}.attn_k.weight",
        Role.VALUE: "blk.{layer}.attn_v.weight",
        Role.ATTENTION_OUT: "blk.{layer}.attn_output.weight",
        Role.FFN_NORM: "blk.{layer}.ffn_norm.weight",
        Role.GATE: "blk.{layer}.ffn_gate.weight",
        Role.UP: "blk.{layer}.ffn_up.weight",
        Role.DOWN: "blk.{layer}.ffn_down.weight",
        Role.FINAL_NORM: "output_norm.weight",
        Role.HEAD: "output.weight",
    },
    ignored=(ROPE_FREQS,),
    recognises=recognises,
    opener=open_gguf,
    writer=write_gguf,
    options=("shard_size", "quantize", "output_type", "embedding_type"),
)
