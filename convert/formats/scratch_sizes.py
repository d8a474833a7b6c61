"""What the book's files say only by their shapes, and where the rest of the sizes may come from.

Neither heads nor the rotary constants show in any shape. They are taken from what the user says, from tables in
the file, from `--llama-version`, or from the one release that has exactly these shapes; never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from llama_convert.convert.architecture import LlamaConfig, Role, RopeScaling, Weight
from llama_convert.convert.containers.slices import TensorFile
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.format import Format
from llama_convert.convert.formats.scratch_rope import Tables
from llama_convert.convert.rope import released_scaling
from llama_convert.convert.tokenizers.kinds import TokenizerKind
from llama_convert.convert.versions import VERSIONS, Evidence, Version, known_version, rope_scaling

# The rope_factor of models without scaling, as the user says it.
UNSCALED = "none"
# The classes of the book have it written in them.
NORM_EPS = 1e-5
NEEDED = ("heads", "rope_theta", "rope_factor", "context")


class Shapes(NamedTuple):
    """The sizes that shapes show; key_rows: of all key heads together."""

    hidden_size: int
    layers: int
    intermediate_size: int
    key_rows: int
    vocab_size: int


@dataclass(frozen=True, slots=True)
class _Release:
    """Heads of a release, and the versions that have its shapes, the likeliest first."""

    heads: int
    versions: tuple[str, ...]


_RELEASES = {
    Shapes(4096, 32, 11008, 4096, 32000): _Release(32, ("2", "code", "guard-1")),
    Shapes(5120, 40, 13824, 5120, 32000): _Release(40, ("2", "code")),
    Shapes(8192, 80, 28672, 1024, 32000): _Release(64, ("2",)),
    Shapes(4096, 32, 11008, 4096, 32016): _Release(32, ("code",)),
    Shapes(5120, 40, 13824, 5120, 32016): _Release(40, ("code",)),
    Shapes(8192, 48, 22016, 1024, 32000): _Release(64, ("code",)),
    Shapes(4096, 32, 14336, 1024, 128256): _Release(32, ("3.1", "3", "guard-3", "guard-2")),
    Shapes(8192, 80, 28672, 1024, 128256): _Release(64, ("3.1", "3.3", "3")),
    Shapes(16384, 126, 53248, 1024, 128256): _Release(128, ("3.1",)),
    Shapes(2048, 16, 8192, 512, 128256): _Release(32, ("3.2", "guard-3")),
    Shapes(3072, 28, 8192, 1024, 128256): _Release(24, ("3.2",)),
}


def read_shapes(form: Format, file: TensorFile) -> Shapes:
    """The sizes, each from one tensor: `assemble` holds all others against them."""
    layers = {weight.layer for name in file.tensors for weight in form.weights_of(name) if weight.layer is not None}
    rows = {}
    for role in (Role.TOKENS, Role.KEY, Role.GATE):
        name = form.name_of(Weight(role, None if role is Role.TOKENS else 0))
        tensor = file.tensors.get(name)
        if tensor is None or len(tensor.shape) != 2:
            raise CheckpointError(
                f"{file.path}: {name} is missing or no matrix, and its shape is to tell the sizes",
                advice="Save the whole state dict of the model.",
            )
        rows[role] = tensor.shape
    return Shapes(rows[Role.TOKENS][1], len(layers), rows[Role.GATE][0], rows[Role.KEY][0], rows[Role.TOKENS][0])


def find_values(
    path: Path, shapes: Shapes, tables: Tables | None, asked: str | None, assumed: Mapping[str, Any], *, tied: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What no shape shows, by the names of NEEDED, and a note where several releases have these shapes.

    assumed: beats the tables, and those the release: all that the shapes leave open can be overruled.
    Raises CheckpointError: values that nothing tells, by the names to give them under; another version asked
    than the shapes have.
    """
    release = _RELEASES.get(shapes)
    version = _version(path, release, asked)
    by_version = _by_version(version, release, shapes, tied=tied)
    values = by_version | _by_tables(tables, shapes) | _by_kv_heads(shapes, assumed) | dict(assumed)
    if missing := [name for name in NEEDED if name not in values]:
        raise CheckpointError(
            f"{path}: neither its shapes nor a scratch_config.json beside it tell {', '.join(missing)}",
            advice=f"Give {' '.join(_example(name) for name in missing)}"
            + (" (--llama-version gives all but heads)." if set(missing) != {"heads"} else "."),
        )
    guessed = (
        release and not asked and not (tables and tables.rope) and not {"rope_theta", "rope_factor"} <= set(assumed)
    )
    return values, _version_note(release, by_version) if release and guessed else ()


def _example(name: str) -> str:
    return f"--assume {name}=" + ("NUMBER" if name != "rope_factor" else f"NUMBER (or {UNSCALED})")


def _version(path: Path, release: _Release | None, asked: str | None) -> Version | None:
    if asked is None:
        return VERSIONS[release.versions[0]] if release else None
    version = known_version(asked)
    if release and version.name not in release.versions:
        titles = " or ".join(VERSIONS[name].title for name in release.versions)
        raise CheckpointError(
            f"{path}: --llama-version {asked} contradicts the shapes, which are those of {titles}",
            advice="Leave the option out to go by the files.",
        )
    return version


def theta_of(version: Version) -> float:
    """The rope_theta that all releases of the version have."""
    if version.tokenizer is TokenizerKind.TIKTOKEN:
        return 500000.0
    return 1000000.0 if version.name == "code" else 10000.0


def _by_version(version: Version | None, release: _Release | None, shapes: Shapes, *, tied: bool) -> dict[str, Any]:
    if version is None:
        return {}
    evidence = Evidence(
        tokenizer=version.tokenizer,
        scaled=version.rope_factor is not None,
        rope_factor=None,
        rope_theta=theta_of(version),
        norm_eps=NORM_EPS,
        hidden_size=shapes.hidden_size,
        layers=shapes.layers,
        grouped=shapes.key_rows != shapes.hidden_size,
        tied=tied,
    )
    scaling = rope_scaling(version, evidence)
    return {
        "rope_theta": evidence.rope_theta,
        "rope_factor": scaling.factor if scaling else None,
        "context": version.context,
        **({"heads": release.heads} if release else {}),
    }


def _by_tables(tables: Tables | None, shapes: Shapes) -> dict[str, Any]:
    if tables is None:
        return {}
    found: dict[str, Any] = {"context": tables.context, "heads": shapes.hidden_size // tables.head_dim}
    if tables.rope:
        found["rope_theta"], found["rope_factor"] = tables.rope
    return found


def _by_kv_heads(shapes: Shapes, assumed: Mapping[str, Any]) -> dict[str, Any]:
    """Key heads and their rows give the size of a head, and so the number of query heads."""
    head_dim = shapes.key_rows // assumed["kv_heads"] if "kv_heads" in assumed else 0
    return {"heads": shapes.hidden_size // head_dim} if head_dim else {}


def _version_note(release: _Release, told: Mapping[str, Any]) -> tuple[str, ...]:
    first, *others = (VERSIONS[name].title for name in release.versions)
    if not others:
        return ()
    factor = f"scaled by {told['rope_factor']:g}" if told["rope_factor"] else "unscaled"
    return (
        f"taken as {first}, with theta {told['rope_theta']:g}, {factor}: the file does not say, and "
        f"{', '.join(others)} {'has' if len(others) == 1 else 'have'} the same shapes. --llama-version tells.",
    )


def make_config(
    path: Path, shapes: Shapes, values: Mapping[str, Any], assumed: Mapping[str, Any], *, tied: bool
) -> LlamaConfig:
    """The config of these shapes and values; CheckpointError where they do not fit each other."""
    heads = values["heads"]
    head_dim = shapes.hidden_size // heads
    kv_heads = shapes.key_rows // head_dim if head_dim else 0
    problems = _problems(shapes, heads, head_dim, kv_heads, assumed.get("kv_heads", kv_heads))
    if problems:
        raise CheckpointError(
            f"{path}: the shapes do not fit {heads} heads",
            problems=problems,
            advice="Give the heads of this model with --assume heads=NUMBER.",
        )
    return LlamaConfig(
        hidden_size=shapes.hidden_size,
        intermediate_size=shapes.intermediate_size,
        layers=shapes.layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=shapes.vocab_size,
        norm_eps=NORM_EPS,
        rope_theta=values["rope_theta"],
        rope_scaling=_scaling(values),
        context=values["context"],
        tied=tied,
    )


def _scaling(values: Mapping[str, Any]) -> RopeScaling | None:
    """The file's own scaling, where it has one, with the factor that counts."""
    factor, stored = values["rope_factor"], values.get("rope_scaling")
    return replace(stored, factor=factor) if factor and stored else released_scaling(factor)


def _problems(shapes: Shapes, heads: int, head_dim: int, kv_heads: int, wanted: int) -> Sequence[str]:
    if not head_dim or shapes.hidden_size % heads or head_dim % 2:
        return [f"emb_dim {shapes.hidden_size} does not divide into {heads} heads of even size"]
    if shapes.key_rows % head_dim or not kv_heads or heads % kv_heads:
        return [f"{shapes.key_rows} rows of W_key are not heads of {head_dim} that divide {heads}"]
    if kv_heads != wanted:
        return [f"{shapes.key_rows} rows of W_key are {kv_heads} heads of {head_dim}, kv_heads was given as {wanted}"]
    return []
