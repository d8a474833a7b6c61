"""Causes that the two sides' configs show: a value that differs is named with the files that say it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llama_convert.convert.architecture import LlamaConfig, Role, RopeScaling
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.verify.structure import config_differences, harmless

_FILES = {
    "hf": "config.json",
    "mlx": "config.json",
    "meta": "params.json",
    "scratch": "scratch_config.json",
    "litgpt": "model_config.yaml",
    "torchtune": "torchtune_config.json",
}
_CAUSES = {
    "rope_theta": "wrong-theta",
    "norm_eps": "wrong-norm-eps",
    "context": "wrong-context",
    "rope_scaling.factor": "rope-scaling-factor",
    "rope_scaling.low_frequency_factor": "rope-scaling-frequencies",
    "rope_scaling.high_frequency_factor": "rope-scaling-frequencies",
    "rope_scaling.original_context": "rope-scaling-context",
}
# What params.json says itself; the rest follows from it and from the version.
_IN_PARAMS = {"rope_theta", "norm_eps", "heads", "kv_heads", "layers", "hidden_size", "vocab_size"}
_HEADS = ("heads", "kv_heads", "head_dim")
# More rows than this are another vocabulary, or one padded on purpose.
_A_FEW_ROWS = 4


def setting_causes(a: Checkpoint, b: Checkpoint) -> Iterator[tuple[str, str]]:
    """(cause, detail) for each reason why the two configs mean different models, the details with both values."""
    found: dict[str, list[str]] = {}
    for field, line in config_differences(a.config, b.config):
        if not harmless(field, b):
            # Where one side has no scaling at all, the line is that of the whole field.
            name = line.partition(":")[0]
            found.setdefault(_cause(a.config, b.config, name), []).append(name)
    for cause, names in found.items():
        yield cause, f"{_said(b, names)}; {_said(a, names)}"


def _cause(a: LlamaConfig, b: LlamaConfig, name: str) -> str:
    if name == "rope_scaling":
        return "rope-scaling-missing" if b.rope_scaling is None else "rope-scaling-added"
    if name == "vocab_size":
        return "vocabulary-off-by-one" if abs(a.vocab_size - b.vocab_size) <= _A_FEW_ROWS else "other-vocabulary"
    if name in _HEADS:
        return "wrong-head-count" if _same_shapes(a, b) else "other-sizes"
    return _CAUSES.get(name, "other-sizes")


def _same_shapes(a: LlamaConfig, b: LlamaConfig) -> bool:
    return all(a.shape(role) == b.shape(role) for role in (Role.QUERY, Role.KEY))


def _said(side: Checkpoint, names: Sequence[str]) -> str:
    values = ", ".join(f"{name} {_text(_value(side.config, name))}" for name in names)
    derived = side.format.name == "meta" and not _IN_PARAMS.issuperset(names)
    return f"{_file(side)} {'means' if derived else 'says'} {values}"


def _file(side: Checkpoint) -> str:
    if side.path.is_file() or side.format.name not in _FILES:
        return f"{side.path.name} itself"
    return f"{side.path.name}/{_FILES[side.format.name]}"


def _value(config: LlamaConfig, name: str) -> object:
    value: object = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, RopeScaling):
        return f"with factor {value.factor:g}"
    return f"{int(value) if value.is_integer() else value}" if isinstance(value, float) else str(value)
