"""Why two checkpoints are not the same model: by name, in a sentence, with what to do.

A is taken as right, the mistake as made on the way to B. First what the configs say, then what the values show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf

from llama_convert.convert.architecture import Role, Weight
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.verify.causes import CAUSES
from llama_convert.verify.distances import Difference
from llama_convert.verify.expectations import expectation
from llama_convert.verify.hypotheses import explained
from llama_convert.verify.marks import Mark, mark
from llama_convert.verify.places import places
from llama_convert.verify.report import Diagnosis, Parting
from llama_convert.verify.samples import sampled
from llama_convert.verify.settings import setting_causes
from llama_convert.verify.tensors import TensorResult, compare_tensors

# Of a weight's values; fewer that differ are damage.
_MANY = 0.01
# Marks of values that were never A's.
_NOT_A_S = ("tensor-of-another-model", "values-differ")


def diagnose(
    a: Checkpoint, b: Checkpoint, results: Sequence[TensorResult], parting: Parting | None
) -> tuple[Diagnosis, ...]:
    """Every cause that is found, those of the configs first, then those of the values from the first layer up.

    results: of all weights, as `compare_tensors` gives them. parting: where the forward passes part, if they do;
    it is put into words where no cause with a name explains the failure.
    Cost: some rows of each weight that differs, read a few dozen times. Memory: these rows.
    """
    if exchanged := _exchanged(a, b, results):
        return (_said(a, b, exchanged, ()),)
    found = [_said(a, b, Mark(cause, detail), ()) for cause, detail in setting_causes(a, b)]
    found += [_said(a, b, reason, weights) for reason, weights in _grouped(a, b, results).items()]
    if parting is not None and all(CAUSES[one.cause].vague for one in found):
        found.append(_said(a, b, Mark("unknown", _parting_text(parting)), ()))
    return tuple(found)


def _exchanged(a: Checkpoint, b: Checkpoint, results: Sequence[TensorResult]) -> Mark | None:
    """Where values are lost on A's side, they may have been lost on the way from B."""
    if not _comparable(results) or not any(result.cast for result in results) or list(setting_causes(a, b)):
        return None
    back = list(compare_tensors(b, a))
    if not all(result.right for result in back):
        return None
    return Mark("sides-exchanged", f"all {len(back)} weights are right in the other direction")


def _grouped(a: Checkpoint, b: Checkpoint, results: Sequence[TensorResult]) -> dict[Mark, list[Weight]]:
    """The weights that differ, by their reason."""
    groups: dict[Mark, list[Weight]] = {}
    for weight, reason in _reasons(a, _with_heads_of(a, b), _comparable(results)):
        groups.setdefault(reason, []).append(weight)
    return groups


def _comparable(results: Sequence[TensorResult]) -> list[TensorResult]:
    """Those that differ in values; weights that are missing or of another shape are the structure level's."""
    return [result for result in results if result.problem is None and not result.right]


def _with_heads_of(a: Checkpoint, b: Checkpoint) -> Checkpoint:
    """B read with A's heads: a wrong number of them in B's config would make other rows of right weights."""
    heads = {name: getattr(a.config, name) for name in ("heads", "kv_heads", "head_dim")}
    return replace(b, config=replace(b.config, **heads))


def _reasons(a: Checkpoint, b: Checkpoint, results: Sequence[TensorResult]) -> Iterator[tuple[Weight, Mark]]:
    embedding_differs = any(result.weight.role is Role.TOKENS for result in results)
    for result in results:
        # Tied on both sides: what is wrong with the embedding has been said.
        repeated = result.weight.role is Role.HEAD and embedding_differs and a.config.tied and b.config.tied
        reason = None if repeated else _reason(a, b, result)
        if reason is not None:
            yield result.weight, reason


def _reason(a: Checkpoint, b: Checkpoint, result: TensorResult) -> Mark | None:
    """None where B is right but for its config."""
    # Judged by its error: the first row that is too far away, if it is not all of them a little.
    strays = Difference(count=result.strays, largest=inf, place=result.place)
    sample = sampled(a, b, result.weight, result.difference or strays)
    if sample is None:
        return None
    found = explained(sample)
    if found is not None:
        return Mark(found.cause, found.detail)
    if sample.exact and _as_near_as_its_type(result):
        return Mark("quantised-another-way", f"{result.type} explains more")
    untied = result.weight.role is Role.HEAD and a.config.tied and not b.config.tied
    marked = mark(sample)
    return Mark("head-untied-by-mistake") if untied and marked.cause in _NOT_A_S else marked


def _as_near_as_its_type(result: TensorResult) -> bool:
    """Many values, each a little off, as another choice of scales gives them: no damage, and no other tensor."""
    if result.type is None or result.relative_error is None or result.difference is None:
        return False
    few = result.difference.count < result.elements * _MANY
    return not few and result.relative_error <= expectation(result.type).relative_error


def _said(a: Checkpoint, b: Checkpoint, reason: Mark, weights: Sequence[Weight]) -> Diagnosis:
    cause, where = CAUSES[reason.cause], places(weights)
    detail = reason.detail.replace("{places}", where).replace("{a}", a.path.name)
    sentence = cause.sentence.format(a=a.path.name, b=b.path.name, places=where, detail=detail)
    return Diagnosis(cause=reason.cause, sentence=sentence, fix=cause.fix)


def _parting_text(parting: Parting) -> str:
    return (
        f"the two first part in the {parting}, by {parting.difference:.3g} of its spread; "
        f"rounding explains {parting.gate:.1g}"
    )
