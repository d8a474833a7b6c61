"""Model-parallel shards merged: which axis each weight was split on, and whether the parts fit each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from llama_convert.convert.architecture import LAYER_ROLES, NORM_ROLES, Role, Weight
from llama_convert.convert.checkpoint import Parts
from llama_convert.convert.containers.slices import FLOATS, DType, Scaled, TensorFile, TensorSlice
from llama_convert.convert.errors import CheckpointError, counted
from llama_convert.convert.expressions import stored
from llama_convert.convert.format import Format
from llama_convert.convert.formats.meta_params import Params
from llama_convert.convert.sameness import same

# A fact of Meta's layers: ColumnParallelLinear splits the outputs (rows of the weight), RowParallelLinear
# the inputs. The embedding is not listed: Llama 3 splits its vocabulary, Llama 1 and 2 its features.
AXES = {
    Role.QUERY: 0,
    Role.KEY: 0,
    Role.VALUE: 0,
    Role.ATTENTION_OUT: 1,
    Role.GATE: 0,
    Role.UP: 0,
    Role.DOWN: 1,
    Role.HEAD: 0,
}
Piece = TensorSlice | Scaled

_VISION_OR_4 = ("vision_model.", "text_model.", "layers.0.feed_forward.experts.", "layers.0.attention.wqkv.")
_QUANTISED = (DType.FLOAT8_E4M3, DType.FLOAT8_E5M2, DType.INT8, DType.UINT8, DType.INT32)


def merge(
    form: Format, files: Sequence[TensorFile], params: Params, scaled: Sequence[Mapping[str, Scaled]]
) -> dict[Weight, Parts]:
    """Every weight with its part in every shard and the axis on which the parts meet.

    scaled: for each shard, its matrices whose scales lie in a file apart, by name.
    Raises CheckpointError: foreign tensors, names missing or unknown in any shard, shapes that contradict
    params.json or each other, too few or too many shards, norms that differ between shards.
    """
    _refuse_foreign(files, scaled)
    _check_names(form, files, params)
    _check_kinds(form, files, params, scaled)
    _check_shard_count(form, files, params)
    shards: list[dict[str, Piece]] = [{**file.tensors, **own} for file, own in zip(files, scaled, strict=True)]
    parts = {
        weight: Parts(tuple(shard[form.name_of(weight)] for shard in shards), _axis(weight, form, files, params))
        for weight in _expected(params)
    }
    _check_shapes(form, parts, params)
    _check_norms(form, parts, files)
    return parts


def _expected(params: Params) -> Iterator[Weight]:
    """Meta's files always hold an output head, tied or not."""
    yield from (Weight(Role.TOKENS), Weight(Role.FINAL_NORM), Weight(Role.HEAD))
    yield from (Weight(role, layer) for layer in range(params.layers) for role in LAYER_ROLES)


def _refuse_foreign(files: Sequence[TensorFile], scaled: Sequence[Mapping[str, Scaled]]) -> None:
    for file in files:
        if any(name.startswith(_VISION_OR_4) for name in file.tensors):
            raise CheckpointError(
                f"{file.path}: this is a Llama 3.2 Vision or Llama 4 model, which is not supported",
                advice="Supported are the text models Llama 1 to 3.3, Code Llama and Llama Guard 1 to 3.",
            )
    found = [
        f"{file.path.name}: {name} is {tensor.dtype.label}"
        for file, own in zip(files, scaled, strict=True)
        for name, tensor in file.tensors.items()
        if tensor.dtype in _QUANTISED and name not in own
    ]
    if found:
        raise CheckpointError(
            f"{files[0].path.parent}: quantised weights are not supported ({counted(len(found), 'tensor')})",
            problems=found[:10],
            advice="Use the unquantised release of this model (bf16).",
        )


def _check_names(form: Format, files: Sequence[TensorFile], params: Params) -> None:
    expected = {form.name_of(weight) for weight in _expected(params)}
    known = {file.path.name: {name for name in file.tensors if not form.ignores(name)} for file in files}
    missing = {name: [file for file, names in known.items() if name not in names] for name in expected}
    unknown = {
        name: [file for file, names in known.items() if name in names]
        for name in set().union(*known.values()) - expected
    }
    problems = [f"missing  {name} in {_listed(shards, files)}" for name, shards in sorted(missing.items()) if shards]
    problems += [f"unknown  {name} in {_listed(shards, files)}" for name, shards in sorted(unknown.items())]
    if problems:
        raise CheckpointError(
            f"{files[0].path.parent}: this is not a complete Meta checkpoint ({counted(len(problems), 'problem')})",
            problems=problems,
            advice=f"Is params.json, which says {params.layers} layers, the one of these shards?",
        )


def _listed(names: Sequence[str], files: Sequence[TensorFile]) -> str:
    return "every shard" if len(names) == len(files) > 1 else ", ".join(names)


def _check_kinds(
    form: Format, files: Sequence[TensorFile], params: Params, scaled: Sequence[Mapping[str, Scaled]]
) -> None:
    """Element types of weights, and as many axes as a vector or a matrix has: later checks go by the shapes."""
    problems = []
    for file, own in zip(files, scaled, strict=True):
        for weight in _expected(params):
            name, axes = form.name_of(weight), 1 if weight.role in NORM_ROLES else 2
            tensor = file.tensors[name]
            if (tensor.dtype not in FLOATS and name not in own) or len(tensor.shape) != axes:
                problems.append(
                    f"{name} in {file.path.name} is {tensor.dtype.label} {tensor.shape}, "
                    f"wanted {' or '.join(dtype.label for dtype in FLOATS)} with {axes} axes"
                )
    if problems:
        raise CheckpointError(
            f"{files[0].path.parent}: tensors that are no weights of a Llama ({counted(len(problems), 'problem')})",
            problems=problems,
            advice="Were the files changed since Meta released them? Fetch them again.",
        )


def _check_shard_count(form: Format, files: Sequence[TensorFile], params: Params) -> None:
    """The rows of one shard's wq are its share of the model: they tell how many shards there must be."""
    shares = {file.tensors[form.name_of(Weight(Role.QUERY, 0))].shape[0] for file in files}
    folder = files[0].path.parent
    if len(shares) > 1:
        raise CheckpointError(
            f"{folder}: the shards are of different models",
            problems=[
                f"{file.path.name}: wq {file.tensors[form.name_of(Weight(Role.QUERY, 0))].shape}" for file in files
            ],
            advice="Put the shards of one model into a folder of their own.",
        )
    needed = params.hidden_size / shares.pop()
    if needed > len(files) and needed.is_integer():
        raise CheckpointError(
            f"{folder}: {counted(len(files), 'shard')} found, but the model has {needed:.0f}",
            problems=[f"missing  consolidated.{number:02}.pth" for number in range(len(files), int(needed))[:64]],
            advice="Download the missing files into the same folder.",
        )
    if needed < len(files):
        raise CheckpointError(
            f"{folder}: {counted(len(files), 'shard')} found, but the model has {needed:g}",
            problems=[f"surplus  {file.path.name}" for file in files[max(int(needed), 1) :]],
            advice="Put the shards of one model into a folder of their own.",
        )


def _axis(weight: Weight, form: Format, files: Sequence[TensorFile], params: Params) -> int | None:
    if weight.role in NORM_ROLES:
        return None
    if weight.role is not Role.TOKENS:
        return AXES[weight.role]
    shape = files[0].tensors[form.name_of(weight)].shape
    return 0 if shape[-1] == params.hidden_size else 1


def _check_shapes(form: Format, parts: Mapping[Weight, Parts], params: Params) -> None:
    problems = [
        problem
        for weight, part in parts.items()
        for problem in _shape_problems(form.name_of(weight), weight, part, parts, params)
    ]
    if problems:
        raise CheckpointError(
            f"{params.path.parent}: tensors do not fit params.json or each other ({counted(len(problems), 'problem')})",
            problems=problems,
            advice="Are all shards and params.json of the same model?",
        )


def _shape_problems(
    name: str, weight: Weight, part: Parts, parts: Mapping[Weight, Parts], params: Params
) -> Iterator[str]:
    shapes = [tensor.shape for tensor in part.pieces]
    if len(set(shapes)) > 1:
        yield f"{name}: shards have {', '.join(str(shape) for shape in sorted(set(shapes)))}"
        return
    found, wanted = part.whole().shape, _wanted_shape(weight.role, parts, params, len(shapes))
    if found not in wanted:
        yield f"{name}: the files have {found}, params.json says {' or '.join(str(shape) for shape in wanted)}"


def _wanted_shape(
    role: Role, parts: Mapping[Weight, Parts], params: Params, shards: int
) -> tuple[tuple[int, ...], ...]:
    hidden = params.hidden_size
    vocabulary = params.vocab_size or parts[Weight(Role.HEAD)].whole().shape[0]
    inner = params.intermediate_size or parts[Weight(Role.GATE, 0)].whole().shape[0]
    if role in NORM_ROLES:
        return ((hidden,),)
    if role in (Role.TOKENS, Role.HEAD):
        return ((vocabulary, hidden),)
    if role in (Role.KEY, Role.VALUE):
        return tuple((heads * params.head_dim, hidden) for heads in _kv_heads(params, shards))
    return {
        Role.GATE: ((inner, hidden),),
        Role.UP: ((inner, hidden),),
        Role.DOWN: ((hidden, inner),),
    }.get(role, ((hidden, hidden),))


def _kv_heads(params: Params, shards: int) -> tuple[int, ...]:
    """Heads the key rows may hold: where there are more shards than kv heads, each shard has one of its own."""
    heads = params.kv_heads or params.heads
    return (heads, shards) if shards > heads and shards % heads == 0 else (heads,)


def _check_norms(form: Format, parts: Mapping[Weight, Parts], files: Sequence[TensorFile]) -> None:
    problems = []
    for weight, part in parts.items():
        if part.axis is None:
            first = stored(part.pieces[0])
            odd = [tensor.file.name for tensor in part.pieces[1:] if not same(first, stored(tensor))]
            problems += [f"{form.name_of(weight)}: {part.pieces[0].file.name} and {name}" for name in odd]
    if problems:
        raise CheckpointError(
            f"{files[0].path.parent}: norms differ between shards, which hold copies of them ({len(problems)} differ)",
            problems=problems,
            advice="A shard is of another model, or damaged: compare with checklist.chk and fetch it again.",
        )


def is_tied(parts: Mapping[Weight, Parts]) -> bool:
    """Whether the output head equals the token embedding, bit for bit.

    Cost: nothing where they share a record; one block where they differ; both read where they are equal.
    """
    tokens, head = parts[Weight(Role.TOKENS)], parts[Weight(Role.HEAD)]
    return tokens == head or same(tokens.whole(), head.whole())


def copies_of_kv_heads(parts: Mapping[Weight, Parts], params: Params) -> int:
    """How often every key and value head is stored in a row; 1 where they are all different.

    Meta's 16-way files of the 405B model, which has 8 kv heads, give each shard one head of its own.
    Raises CheckpointError where there are more rows than n_kv_heads says, but they are no copies.
    """
    found = parts[Weight(Role.KEY, 0)].whole().shape[0] // params.head_dim
    shards = len(parts[Weight(Role.KEY, 0)].pieces)
    claimed = params.kv_heads or params.heads
    if found != claimed:
        copies = found // claimed
        if not _repeated(parts, params, copies):
            raise CheckpointError(
                f"{params.path}: n_kv_heads is {claimed}, but the key rows hold {found} different heads",
                advice="Is params.json the one of these shards?",
            )
        return copies
    # One head a shard is the only layout in which copies make sense; a difference shows in the first block.
    return next((n for n in _divisors(found) if found == shards > 1 and _repeated(parts, params, n)), 1)


def _divisors(heads: int) -> list[int]:
    """Largest first, 1 left out."""
    return [n for n in range(heads, 1, -1) if heads % n == 0]


def _repeated(parts: Mapping[Weight, Parts], params: Params, copies: int) -> bool:
    """Whether the key and value heads of every layer come in runs of `copies` equal ones."""
    weights = [Weight(role, layer) for layer in range(params.layers) for role in (Role.KEY, Role.VALUE)]
    return all(_repeats(parts[weight], params.head_dim, copies) for weight in weights)


def _repeats(part: Parts, head_dim: int, copies: int) -> bool:
    heads = [
        stored(tensor.rows(start, start + head_dim))
        for tensor in part.pieces
        for start in range(0, tensor.shape[0], head_dim)
    ]
    groups = [heads[start : start + copies] for start in range(0, len(heads), copies)]
    return all(same(group[0], other) for group in groups for other in group[1:])
