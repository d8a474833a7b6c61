"""llama2.c's format: one `.bin` with everything of the model, versions 0 to 2, and `tokenizer.bin` beside it.

Its C programs have theta, norm_eps and the tokenizer's habits in their code: what they cannot run is not written.
Sources: karpathy/llama2.c run.c, runq.c (what they read), export.py (what it writes).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from llama_convert.convert.architecture import NORM_ROLES, LlamaConfig, Role
from llama_convert.convert.assembly import assemble
from llama_convert.convert.checkpoint import Checkpoint, TokenizerFile
from llama_convert.convert.containers.llama2c import Header, Layout, lay_out, may_be_llama2c, read_llama2c
from llama_convert.convert.containers.slices import Coding, DType, Scaled, TensorFile
from llama_convert.convert.containers.sources import byte_source
from llama_convert.convert.errors import CheckpointError, UsageError, counted
from llama_convert.convert.expressions import Grouped
from llama_convert.convert.format import Assertions, Format, Head
from llama_convert.convert.formats.meta import META
from llama_convert.convert.formats.tokenizer_files import pad_note
from llama_convert.convert.outputs import Output, Request, SideFile, Step, Tensor, WeightFile
from llama_convert.convert.plan import tensors
from llama_convert.convert.quantisation.groups import group_size
from llama_convert.convert.tokenizers.added import Vocabulary
from llama_convert.convert.tokenizers.changes import with_fillers
from llama_convert.convert.tokenizers.kinds import TokenizerKind
from llama_convert.convert.tokenizers.llama2c import unlike_llama_2, write_tokenizer_bin
from llama_convert.convert.tokenizers.problems import capped
from llama_convert.convert.tokenizers.sentencepiece import SentencePieceVocabulary
from llama_convert.convert.tokens import Tokens, open_tokens
from llama_convert.convert.versions import confirm, evidence_of

_WEIGHTS = "model.bin"
_TOKENIZER = "tokenizer.bin"
# What stands in the C programs, and in no file.
_THETA, _NORM_EPS = 10000.0, 1e-5
_QUANTISED = 2  # the version whose matrices are int8
_START = 64  # bytes by which a file is recognised


def recognises(path: Path) -> bool:
    """Whether the path is a file of llama2.c's, or a folder with one, by its first bytes."""
    return bool(_model_files(path))


def _model_files(path: Path) -> list[Path]:
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    candidates = (file for file in found if file.suffix == ".bin" and file.is_file())
    return [file for file in candidates if may_be_llama2c(byte_source(file).read(0, _START))]


def open_llama2c(form: Format, path: Path, assertions: Assertions) -> Checkpoint:
    """The checkpoint in a file of llama2.c's, or in the folder that holds one.

    Raises CheckpointError: a damaged file, or several in the folder.
    """
    file_path = _only(path)
    opened = read_llama2c(byte_source(file_path))
    config = _config(opened.header)
    scaled = dict(_matrices(opened.file)) if opened.header.version == _QUANTISED else {}
    return Checkpoint(
        path=path,
        format=form,
        config=config,
        versions=confirm(assertions.llama_version, evidence_of(config)),
        parts=assemble(form, file_path, [_without(opened.file, scaled)], config, said_by="its header", scaled=scaled),
        files=(opened.file,),
        tokenizer=_tokenizer(file_path.with_name(_TOKENIZER)),
        dtype=DType.FLOAT32,
        rotary=form.rotary,
    )


def _only(path: Path) -> Path:
    files = _model_files(path)
    if len(files) != 1:
        raise CheckpointError(
            f"{path}: holds {len(files)} models of llama2.c's",
            problems=[file.name for file in files],
            advice="Give the file of the model itself.",
        )
    return files[0]


def _config(header: Header) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=header.dim,
        intermediate_size=header.hidden_dim,
        layers=header.layers,
        heads=header.heads,
        kv_heads=header.kv_heads,
        head_dim=header.head_dim,
        vocab_size=header.vocab,
        norm_eps=_NORM_EPS,
        rope_theta=_THETA,
        rope_scaling=None,
        context=header.context,
        tied=header.shared,
    )


def _matrices(file: TensorFile) -> Iterator[tuple[str, Scaled]]:
    """Every matrix of version 2, whose groups of int8 have their scales behind them."""
    for name, codes in file.tensors.items():
        scales = file.tensors.get(f"{name}.scales")
        if scales is not None:
            yield name, Scaled(coding=Coding.SCALED, shape=codes.shape, codes=codes, scales=scales)


def _without(file: TensorFile, scaled: dict[str, Scaled]) -> TensorFile:
    apart = {*scaled, *(f"{name}.scales" for name in scaled)}
    return replace(file, tensors={name: tensor for name, tensor in file.tensors.items() if name not in apart})


def _tokenizer(path: Path) -> TokenizerFile | None:
    return TokenizerFile(TokenizerKind.LLAMA2C, path) if path.is_file() else None


def write_llama2c(form: Format, source: Checkpoint, request: Request) -> Output:
    """The checkpoint as `model.bin` with `tokenizer.bin`: version 0, or 2 where it is to be quantised.

    Raises UsageError with every reason why llama2.c's programs would not run it right.
    """
    version = _version(request)
    tokens = open_tokens(source, request)
    vocabulary = _runnable(source.config, request, tokens)
    header = _header(source.config, version)
    made = tensors(source, form, request, dtype=lambda weight: DType.FLOAT32)
    tokenizer = SideFile(_TOKENIZER, partial(write_tokenizer_bin, vocabulary=vocabulary))
    return Output(
        files=(_weight_file(lay_out(header), _stored(made, header)),),
        side_files=(tokenizer,),
        notes=tuple(_notes(tokens)),
    )


def _version(request: Request) -> int:
    version, quantise = request.format_version, request.quantize
    if quantise not in (None, DType.Q8_0):
        raise UsageError(
            f"--quantize {quantise.label}: llama2.c has int8 in groups and no other quantised type",
            advice="Give --quantize q8_0, or leave it out.",
        )
    if version not in (None, 0, 1, 2):
        raise UsageError(f"--format-version {version}: llama2.c's files are of version 0, 1 or 2", advice="Give 0.")
    if quantise and version not in (None, _QUANTISED):
        raise UsageError(
            f"--quantize and --format-version {version}: only version {_QUANTISED} is quantised",
            advice="Leave one of them out.",
        )
    return version if version is not None else _QUANTISED if quantise else 0


def _runnable(config: LlamaConfig, request: Request, tokens: Tokens) -> SentencePieceVocabulary:
    """The vocabulary of a model that the C programs run right; UsageError with every reason why they would not."""
    vocabulary = with_fillers(tokens.named, tokens.rows).vocabulary
    problems = [*_unfit(config, request), *_unfit_tokenizer(vocabulary)]
    if problems or not isinstance(vocabulary, SentencePieceVocabulary):
        raise UsageError(
            f"llama2.c would not run this model right ({counted(len(problems), 'reason')})",
            problems=capped(problems),
            advice="Choose another format: llama.cpp runs every Llama from a gguf.",
        )
    return vocabulary


def _unfit(config: LlamaConfig, request: Request) -> Iterator[str]:
    if config.rope_theta != _THETA:
        yield f"theta is {config.rope_theta:g}, {_THETA:g} stands in its code"
    if config.rope_scaling:
        yield "RoPE is scaled, its code knows no scaling"
    if config.norm_eps != _NORM_EPS:
        yield f"norm_eps is {config.norm_eps:g}, {_NORM_EPS:g} stands in its code"
    if config.head_dim * config.heads != config.hidden_size:
        yield f"{config.heads} heads of {config.head_dim} in {config.hidden_size}: its heads divide the dimensions"
    if request.dtype not in (None, DType.FLOAT32):
        yield f"--dtype {request.dtype.label}: its floats are float32"


def _unfit_tokenizer(vocabulary: Vocabulary) -> list[str]:
    if not isinstance(vocabulary, SentencePieceVocabulary):
        return ["the tokenizer is of tiktoken's kind, it runs Llama 2's"]
    return unlike_llama_2(vocabulary)


def _notes(tokens: Tokens) -> Iterator[str]:
    yield from pad_note(tokens)
    special = [token.text for token in tokens.new if token.special]
    if special:
        yield f"llama2.c's programs print special tokens that are generated, such as {special[0]}, as their names."


def _header(config: LlamaConfig, version: int) -> Header:
    return Header(
        version=version,
        dim=config.hidden_size,
        hidden_dim=config.intermediate_size,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        vocab=config.vocab_size,
        context=config.context,
        shared=config.tied,
        group_size=group_size(config.hidden_size, config.intermediate_size) if version == _QUANTISED else 0,
    )


def _stored(made: list[Tensor], header: Header) -> Iterator[Tensor]:
    """What is stored of the tensors: themselves or, of matrices in version 2, codes and scales."""
    for tensor in made:
        if header.version != _QUANTISED or tensor.weights[0].role in NORM_ROLES:
            yield tensor
            continue
        codes, scales = (Grouped(tensor.expression, header.group_size, scales) for scales in (False, True))
        yield Tensor(tensor.weights, tensor.name, codes)
        yield Tensor(tensor.weights, f"{tensor.name}.scales", scales)


def _weight_file(layout: Layout, stored: Iterator[Tensor]) -> WeightFile:
    named = {tensor.name: tensor for tensor in stored}
    return WeightFile(
        name=_WEIGHTS,
        fixed=((0, layout.header), *layout.pieces),
        steps=tuple(Step(named[name], offset) for name, offset in layout.offsets),
        size=layout.size,
    )


LLAMA2C = Format(
    name="llama2c",
    title="llama2.c .bin",
    rotary=META.rotary,
    head=Head.OMITTED,
    names={role: META.names[role] for role in Role},
    ignored=("freqs_cos", "freqs_sin"),
    recognises=recognises,
    opener=open_llama2c,
    writer=write_llama2c,
    options=("quantize", "format_version"),
)
