"""A checkpoint as GGUF: keys as llama.cpp's converter writes them, norms in float32, one file or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llama_convert.convert.architecture import NORM_ROLES, Role, Weight
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.gguf_splits import split_metadata, split_name
from llama_convert.convert.containers.gguf_values import Array, Kind, Scalar, Value
from llama_convert.convert.containers.gguf_writer import lay_out
from llama_convert.convert.containers.slices import DType, TensorSlice
from llama_convert.convert.errors import UsageError
from llama_convert.convert.format import Format
from llama_convert.convert.formats.gguf_config import ARCHITECTURE, config_values, rope_divisors
from llama_convert.convert.formats.huggingface_weights import deal
from llama_convert.convert.origin import name_of
from llama_convert.convert.outputs import Output, Request, Step, Tensor, WeightFile, main_type
from llama_convert.convert.plan import tensors
from llama_convert.convert.tokenizers.gguf_vocabulary import gguf_vocabulary
from llama_convert.convert.tokens import open_tokens

ROPE_FREQS = "rope_freqs.weight"
_TEMPLATE = "tokenizer.chat_template"
# llama.cpp's number for a file whose matrices are mostly of this type; 1024 is "guessed".
_FILE_TYPES = {DType.FLOAT32: 0, DType.FLOAT16: 1, DType.Q4_0: 2, DType.Q8_0: 7, DType.BFLOAT16: 32}
_GUESSED = 1024
_QUANTISATION_VERSION = 2
# Readers such as MAX tell the type from the file's name; theirs are these.
_IN_NAMES = {DType.FLOAT32: "f32", DType.FLOAT16: "f16", DType.BFLOAT16: "bf16"}
# gguf-py names integers where llama.cpp's converter does; everything else is of one kind for all keys.
_KINDS: Mapping[type, Kind] = {bool: Kind.BOOL, int: Kind.UINT32, str: Kind.STRING}
_ARRAY_KINDS: Mapping[type, Kind] = {int: Kind.INT32, float: Kind.FLOAT32, str: Kind.STRING}


def write_gguf(form: Format, source: Checkpoint, request: Request) -> Output:
    """The checkpoint as `NAME-TYPE.gguf`, or numbered parts of it where a shard size is given.

    Quantised: every matrix, as llama.cpp's pure mode does it; norms stay float32. Matrices that are
    quantised in the source already keep their bytes unless the request says otherwise.
    Raises UsageError for rows that the type cannot cut into blocks, and what the tokenizer raises.
    """
    made = tensors(source, form, request, lambda weight: _stored_type(source, weight, request))
    main = main_type((tensor.expression.dtype, tensor.expression.shape) for tensor in made)
    metadata = _metadata(source, request, main)
    stem = f"{name_of(source.path)}-{_IN_NAMES.get(main, main.label)}"
    return Output(files=_files(stem, metadata, made, _extra(source), request.shard_size), side_files=())


def _stored_type(source: Checkpoint, weight: Weight, request: Request) -> DType | None:
    if weight.role in NORM_ROLES:
        return DType.FLOAT32
    own = {Role.TOKENS: request.embedding_type, Role.HEAD: request.output_type}.get(weight.role)
    return own or request.quantize or (None if request.dtype else _quantised_type(source, weight))


def _quantised_type(source: Checkpoint, weight: Weight) -> DType | None:
    """Ggml's type in which the source has the weight; rows that must be reordered keep it too."""
    parts = source.parts.get(weight)
    piece = parts.pieces[0] if parts else None
    return piece.dtype if isinstance(piece, TensorSlice) and piece.dtype.block > 1 else None


def _metadata(source: Checkpoint, request: Request, main: DType) -> dict[str, Value]:
    values: dict[str, Value] = {
        "general.architecture": Scalar(Kind.STRING, ARCHITECTURE),
        "general.type": Scalar(Kind.STRING, "model"),
        "general.name": Scalar(Kind.STRING, name_of(source.path)),
        "general.size_label": Scalar(Kind.STRING, _size_label(source.config.parameters)),
    }
    values |= config_values(source.config)
    values |= {
        "general.file_type": Scalar(Kind.UINT32, _FILE_TYPES.get(main, _GUESSED)),
        "general.quantization_version": Scalar(Kind.UINT32, _QUANTISATION_VERSION),
    }
    return values | _tokenizer(source, request)


def _size_label(parameters: int) -> str:
    """`8.0B`, `71B`, `135M`: two digits at the least."""
    units = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
    size, letter = next((unit for unit in units if parameters >= unit[0]), units[-1])
    return f"{parameters / size:.{1 if round(parameters / size) < 10 else 0}f}{letter}"


def _tokenizer(source: Checkpoint, request: Request) -> dict[str, Value]:
    tokens = open_tokens(source, request)
    uses = tokens.conventions
    if uses.begin is None or uses.end is None:
        raise UsageError(
            f"{tokens.file.path}: has no token that begins, or none that ends a text, and GGUF needs both",
            advice="Give the tokenizer those tokens first.",
        )
    named = tokens.named
    values = gguf_vocabulary(
        named.vocabulary,
        named.special,
        plain=named.plain,
        rows=tokens.rows,
        begin=uses.begin,
        end=uses.end,
        pad=uses.pad,
    )
    template = {} if uses.chat_template is None else {_TEMPLATE: uses.chat_template}
    return {key: _typed(value) for key, value in {**values, **template}.items()}


def _typed(value: object) -> Value:
    if isinstance(value, list):
        return Array(_ARRAY_KINDS[type(value[0])], value)
    assert isinstance(value, (bool, int, str))  # gguf_vocabulary gives nothing else
    return Scalar(_KINDS[type(value)], value)


def _extra(source: Checkpoint) -> dict[str, bytes]:
    """Tensors that are no weights: how wavelengths are stretched, which llama.cpp reads nowhere else."""
    if source.config.rope_scaling is None:
        return {}
    return {ROPE_FREQS: rope_divisors(source.config).tobytes()}


def _files(
    stem: str,
    metadata: dict[str, Value],
    made: Sequence[Tensor],
    extra: Mapping[str, bytes],
    shard_size: int | None,
) -> tuple[WeightFile, ...]:
    parts = deal(made, shard_size) if shard_size else [list(made)]
    if len(parts) == 1:
        return (_file(f"{stem}.gguf", metadata, made, extra),)
    count, total = len(parts), len(made) + len(extra)
    return tuple(
        _file(
            split_name(stem, number, count),
            {**(metadata if number == 1 else {}), **split_metadata(number, count, total)},
            part,
            extra if number == 1 else {},
        )
        for number, part in enumerate(parts, 1)
    )


def _file(name: str, metadata: Mapping[str, Value], made: Sequence[Tensor], extra: Mapping[str, bytes]) -> WeightFile:
    constants = [(tensor, DType.FLOAT32, (len(content) // 4,)) for tensor, content in extra.items()]
    shapes = [(tensor.name, tensor.expression.dtype, tensor.expression.shape) for tensor in made]
    layout = lay_out(metadata, [*constants, *shapes])
    offsets = dict(layout.offsets)
    fixed = [(0, layout.header), *((offsets[tensor], content) for tensor, content in extra.items())]
    steps = tuple(Step(tensor, offsets[tensor.name]) for tensor in made)
    return WeightFile(name=name, fixed=tuple(fixed), steps=steps, size=layout.size)
