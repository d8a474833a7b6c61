"""The structure level: the same config on both sides, every weight there in the shape its config says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields

from llama_convert.convert.architecture import LlamaConfig, Role, Weight, weights
from llama_convert.convert.checkpoint import Checkpoint, Parts
from llama_convert.verify.report import LevelResult, judged

NAME = "structure"
# Formats that do not store a value: what their checkpoints say of it is a default of the version.
_NOT_STORED = {"meta": ("context",)}


def check_structure(a: Checkpoint, b: Checkpoint | None) -> LevelResult:
    """Whether each side is complete and, with two of them, whether their configs agree."""
    sides = [a] if b is None else [a, b]
    findings = [problem for side in sides for problem in shape_problems(side)]
    warnings: list[str] = []
    if b is not None:
        for field, difference in config_differences(a.config, b.config):
            (warnings if harmless(field, b) else findings).append(difference)
        if a.dtype is not b.dtype:
            warnings.append(f"dtype: {a.dtype.label} against {b.dtype.label}")
    count, config = sum(1 for _ in weights(a.config)), a.config
    figures = f"{count} weights, {config.parameters:,} parameters, {config.layers} layers of {config.hidden_size}"
    return judged(NAME, figures, tuple(findings), tuple(warnings))


def harmless(field: str, b: Checkpoint) -> bool:
    """A difference that changes no logit.

    An output head may be stored or be the embedding: the tensors level sees whether the values agree.
    """
    return field == "tied" or field in _NOT_STORED.get(b.format.name, ())


def config_differences(a: LlamaConfig, b: LlamaConfig) -> Iterator[tuple[str, str]]:
    """Each field that differs, with a line that has both values."""
    for field in fields(LlamaConfig):
        before, after = getattr(a, field.name), getattr(b, field.name)
        if before is None or after is None or field.name != "rope_scaling":
            before, after = {field.name: before}, {field.name: after}
        else:
            before, after = asdict(before), asdict(after)
        for name, value in before.items():
            if value != after[name]:
                path = name if name == field.name else f"{field.name}.{name}"
                yield field.name, f"{path}: {_text(value)} against {_text(after[name])}"


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "none" if value is None else str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def shape_problems(checkpoint: Checkpoint) -> list[str]:
    """Weights that are missing, left over, or not of the shape that the checkpoint's own config says."""
    wanted = list(weights(checkpoint.config))
    allowed = {*wanted, Weight(Role.HEAD)}
    path, form = checkpoint.path, checkpoint.format
    problems = [f"{path}: {form.name_of(weight)} is missing" for weight in wanted if weight not in checkpoint.parts]
    for weight, parts in checkpoint.parts.items():
        if weight not in allowed:
            problems.append(f"{path}: {form.name_of(weight)} is beyond the {checkpoint.config.layers} layers")
        elif stored_shape(parts) != expected_shape(checkpoint, weight):
            found, shape = stored_shape(parts), expected_shape(checkpoint, weight)
            problems.append(f"{path}: {form.name_of(weight)} is {found}, the config says {shape}")
    return problems


def expected_shape(checkpoint: Checkpoint, weight: Weight) -> tuple[int, ...]:
    """The weight's shape as this checkpoint stores it, copies of kv heads included."""
    rows, *rest = checkpoint.config.shape(weight.role)
    return (rows * (checkpoint.kv_copies if weight.role in (Role.KEY, Role.VALUE) else 1), *rest)


def stored_shape(parts: Parts) -> tuple[int, ...]:
    """The shape of all parts together."""
    shape = list(parts.pieces[0].shape)
    if parts.axis is not None:
        shape[parts.axis] = sum(part.shape[parts.axis] for part in parts.pieces)
    return tuple(shape)
