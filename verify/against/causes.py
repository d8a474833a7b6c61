"""Why a library computes something else: known misreadings, each tried in our own forward pass on the same files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from llama_convert.convert.architecture import LlamaConfig, Role, Rotary, Weight
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.verify.against.gaps import Yardstick, gap
from llama_convert.verify.against.library import Answer, Library
from llama_convert.verify.forward import FLOAT32, logits_of
from llama_convert.verify.prompts import Prompt
from llama_convert.verify.report import Diagnosis

_THETAS = (10000.0, 500000.0, 1000000.0)
_FACTORS = (8.0, 32.0)
_EPSILONS = (1e-5, 1e-6)
_REWRITE = "Say it in words that every version of the library knows: llama-convert convert {path} DST --to {form}."
_FIXES: Mapping[str, str] = {
    "wrong-theta": _REWRITE,
    "rope-scaling-missing": _REWRITE,
    "rope-scaling-factor": _REWRITE,
    "wrong-norm-eps": _REWRITE,
    "head-tied-by-mistake": _REWRITE,
    "rotary-order": "The rows lie right for one of the two only: convert again from the original files.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Misreading:
    """What a library may have read instead, as a checkpoint that we can run; several values may be wrong at once.

    wrong: (name of the cause, what the library does) for each of them.
    """

    wrong: tuple[tuple[str, str], ...]
    checkpoint: Checkpoint


def diagnose(
    a: Checkpoint,
    library: Library,
    called: str,
    prompts: tuple[Prompt, ...],
    answers: Sequence[Answer],
    sticks: Sequence[Yardstick],
) -> tuple[Diagnosis, ...]:
    """The causes that give the library's logits at every prompt; none where no known misreading does.

    Cost: a forward pass in float32 for each misreading.
    """

    def times(misreading: Misreading) -> float:
        ours = logits_of(misreading.checkpoint, prompts, FLOAT32)
        pairs = zip(prompts, answers, ours, strict=True)
        gaps = (gap(*one, log_probabilities=library.log_probabilities) for one in pairs)
        return max(stick.times(found) for stick, found in zip(sticks, gaps, strict=True))

    # One misreading before two of them, which may look the same where the library rounds much.
    tried = ((len(misreading.wrong), times(misreading), misreading) for misreading in misreadings(a))
    best = min((one for one in tried if one[1] <= 1), key=lambda one: one[:2], default=None)
    if best is None:
        return ()
    return tuple(
        Diagnosis(
            cause=cause,
            sentence=f"{called} {words}",
            fix=_FIXES[cause].format(path=a.path, form=a.format.name),
        )
        for cause, words in best[2].wrong
    )


def misreadings(a: Checkpoint) -> Iterator[Misreading]:
    """Every known one that would change this model: the single ones first, then pairs of those of the rotary."""
    config = a.config
    thetas = [theta for theta in _THETAS if theta != config.rope_theta]
    for theta in thetas:
        yield _misread(a, replace(config, rope_theta=theta), (_theta(config, theta),))
    for unscaled in _scalings(config):
        yield _misread(a, unscaled[0], (unscaled[1],))
    for eps in _EPSILONS:
        if eps != config.norm_eps:
            words = f"reads norm_eps as {eps:g}, the files say {config.norm_eps:g}"
            yield _misread(a, replace(config, norm_eps=eps), (("wrong-norm-eps", words),))
    for theta in thetas:
        for scaled, wrong in _scalings(config):
            yield _misread(a, replace(scaled, rope_theta=theta), (_theta(config, theta), wrong))
    yield from _tied(a)
    yield _reordered(a)


def _misread(a: Checkpoint, config: LlamaConfig, wrong: tuple[tuple[str, str], ...]) -> Misreading:
    return Misreading(wrong=wrong, checkpoint=replace(a, config=config))


def _theta(config: LlamaConfig, theta: float) -> tuple[str, str]:
    return "wrong-theta", f"reads rope_theta as {theta:g}, the files say {config.rope_theta:g}"


def _scalings(config: LlamaConfig) -> Iterator[tuple[LlamaConfig, tuple[str, str]]]:
    scaling = config.rope_scaling
    if scaling is None:
        return
    words = f"does not scale the rotary frequencies, the files ask for a factor of {scaling.factor:g}"
    yield replace(config, rope_scaling=None), ("rope-scaling-missing", words)
    for factor in _FACTORS:
        if factor != scaling.factor:
            words = f"scales the rotary frequencies by {factor:g}, the files say {scaling.factor:g}"
            changed = replace(scaling, factor=factor)
            yield replace(config, rope_scaling=changed), ("rope-scaling-factor", words)


def _tied(a: Checkpoint) -> Iterator[Misreading]:
    head = Weight(Role.HEAD)
    if head in a.parts:
        parts = {weight: found for weight, found in a.parts.items() if weight != head}
        words = "uses the embedding as its output head, the files hold a head of their own"
        yield Misreading(
            wrong=(("head-tied-by-mistake", words),),
            checkpoint=replace(a, parts=parts, config=replace(a.config, tied=True)),
        )


def _reordered(a: Checkpoint) -> Misreading:
    other = Rotary.HALVES if a.rotary is Rotary.PAIRS else Rotary.PAIRS
    words = f"turns the rows of q and k as {other.value}, we as {a.rotary.value}"
    return Misreading(wrong=(("rotary-order", words),), checkpoint=replace(a, rotary=other))
