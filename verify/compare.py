"""The logits level: both sides run in their own convention, the numbers held against a measured noise floor."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.verify import devices
from llama_convert.verify.devices import PRECISIONS, Computing
from llama_convert.verify.expectations import MEASURED, expected
from llama_convert.verify.forward import Load, Operation, Place, Run, after, load_as, logits_of
from llama_convert.verify.likeness import Likeness, likeness
from llama_convert.verify.loads import ahead, disturbed_as, rounded_as
from llama_convert.verify.lockstep import Gap, compare, distance
from llama_convert.verify.prompts import Prompt, prompts
from llama_convert.verify.reading import Piece, block_size, recomputable, stored_type
from llama_convert.verify.report import Detail, LevelResult, Outcome, Parting, judged, not_checked

NAME = "logits"
# All distances are in spreads (standard deviations) of the logits. Two right computations lie about as far from
# each other as A from itself with every sum in another order. Rotary conventions, shards, other roundings of
# angles gave up to 3.4 times as much: hence 8.
SAFETY = 8.0
# Below, a model would be held to the luck of its noise, measured on few positions.
FLOORS = {"float32": 1e-5, "float64": 1e-13, "bfloat16": 1e-2}
# The smallest known mistake (norm_eps 1e-6 for 1e-5) moves logits by 1e-2. A gate near that proves nothing:
# above this one, both sides are held against each other in float64.
CEILING = 5e-4
# How many times more a quantised model may lose than noise of the same size costs it. Noise cost 1.0 to 1.6 times
# as much as quantising did, for random models of 2 and of 6 layers and four types.
LOSS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """The most that a model may lose: mean divergence, perplexity as a multiple. name: of its coarsest type."""

    name: str
    divergence: float
    perplexity_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsResult:
    """How far B's logits are from A's.

    difference: the largest at any position and token; noise: what rounding alone brings, measured in the same
    run; gate: the most that difference may be. All in spreads of A's logits. exact: whether B's values can be
    recomputed from A's, so that difference is judged. precision: what was computed in.
    rounded: for difference, A's weights were rounded to B's types first. likeness: to A as it is.
    allowed: what B's quantised types may lose; None where they lose nothing, or can be recomputed.
    places: how far apart the two are on the way to the logits, each with a gate of its own where difference is judged.
    """

    positions: int
    difference: float
    noise: float
    gate: float
    exact: bool
    precision: str
    rounded: bool
    likeness: Likeness
    allowed: Allowed | None
    places: tuple[Detail, ...]

    @property
    def parting(self) -> Parting | None:
        """The first place where the two are further apart than rounding explains."""
        return next((_parting(place) for place in self.places if place.outcome is Outcome.FAR), None)

    @property
    def same(self) -> bool:
        """Whether the difference, where it can be judged, can be explained by rounding."""
        return not self.exact or self.difference <= self.gate

    @property
    def losses(self) -> tuple[str, ...]:
        """What is lost beyond what is allowed."""
        if self.allowed is None:
            return ()
        lost = [
            ("divergence", self.likeness.mean_divergence, self.allowed.divergence),
            ("perplexity grown to", self.likeness.perplexity_ratio, self.allowed.perplexity_ratio),
        ]
        return tuple(
            f"{what} {found:.3g}, {self.allowed.name} explains {most:.3g}"
            for what, found, most in lost
            if not found <= most
        )

    @property
    def passed(self) -> bool:
        """Whether B computes what A computes, as far as its types allow."""
        return self.same and not self.losses


def check_logits(a: Checkpoint, b: Checkpoint | None, computing: Computing) -> tuple[LevelResult, Parting | None]:
    """Whether B computes what A computes, and where not; with A alone, whether its logits are finite."""
    with devices.exact():
        if b is None:
            return _alone(a, computing), None
        if reason := _incomparable(a, b):
            return judged(NAME, "no logits to compare", (reason,)), None
        if reason := _cut_blocks(a, b):
            return not_checked(NAME, reason), None
        found = compare_logits(a, b, computing)
        return _judged(found, computing), found.parting


def _incomparable(a: Checkpoint, b: Checkpoint) -> str | None:
    """Models that have no places in common to be compared at."""
    sizes = {"vocab_size": "rows of the vocabulary", "layers": "layers", "hidden_size": "columns"}
    found = [(getattr(a.config, size), getattr(b.config, size), words) for size, words in sizes.items()]
    return next((f"{before} {words} against {after}" for before, after, words in found if before != after), None)


def _cut_blocks(a: Checkpoint, b: Checkpoint) -> str | None:
    """Where A's shards end within the blocks of B's types, no shard can be rounded alone."""
    for weight, parts in a.parts.items():
        size = block_size(b.parts[weight].pieces[0]) if weight in b.parts else 1
        columns = parts.pieces[0].shape[-1]
        if parts.axis == 1 and columns % size:
            return f"A's shards have {columns} columns of the {weight}, B's type has blocks of {size}: convert A to hf"
    return None


def _judged(found: LogitsResult, computing: Computing) -> LevelResult:
    figures, measures = _figures(found, computing), _measures(found, computing)
    gate = found.allowed.divergence if found.allowed else found.gate
    findings = (
        []
        if found.same
        else [f"logits differ by {found.difference:.3g} of their spread, rounding explains {found.gate:.1g}"]
    )
    findings += found.losses
    if found.exact and not findings and not found.gate <= CEILING:
        figures += f"; a gate above {CEILING:.0e} proves nothing: leave --compute away, or ask for float64"
        return not_checked(NAME, figures, measures=measures, gate=gate, details=found.places)
    return judged(NAME, figures, tuple(findings), measures=measures, gate=gate, details=found.places)


def _figures(found: LogitsResult, computing: Computing) -> str:
    alike, parts = found.likeness, [f"{found.positions} positions in {found.precision} on {computing.name}"]
    if found.exact:
        rounded = " from A rounded to B's types" if found.rounded else ""
        judged_by = f"gate {found.gate:.1e}, noise {found.noise:.1e}"
        parts[0] += f": difference {found.difference:.1e}{rounded}, {judged_by}"
    divergence = f"divergence {alike.mean_divergence:.1e}"
    if found.allowed is not None:
        divergence += f" ({found.allowed.name} explains {found.allowed.divergence:.1e})"
    parts.append(
        f"same first token {alike.same_first:.1%}, {divergence}, "
        f"perplexity {alike.perplexity_a:.6g} and {alike.perplexity_b:.6g}"
    )
    return "; ".join(parts)


def _measures(found: LogitsResult, computing: Computing) -> dict[str, float | int | str]:
    allowed: dict[str, float | str] = {}
    if found.allowed is not None:
        allowed = {"quantised": found.allowed.name, "allowed_perplexity_ratio": found.allowed.perplexity_ratio}
    return {
        "positions": found.positions,
        "difference": found.difference,
        "noise": found.noise,
        "precision": found.precision,
        "device": computing.name,
        **asdict(found.likeness),
        **allowed,
    }


def _alone(a: Checkpoint, computing: Computing) -> LevelResult:
    sequences = prompts(a)
    found = _logits(a, sequences, load_as(PRECISIONS[computing.precision or "float32"], computing.device))
    wrong, spread, largest = int((~found.isfinite()).sum()), found.std().item(), found.abs().max().item()
    figures = f"{len(found)} positions on {computing.name}: spread {spread:.3g}, largest {largest:.3g}"
    findings = (f"{wrong:,} of {found.numel():,} logits are NaN or infinite",) if wrong else ()
    return judged(NAME, figures, findings, measures={"spread": spread, "largest": largest, "not_finite": wrong})


def compare_logits(a: Checkpoint, b: Checkpoint, computing: Computing) -> LogitsResult:
    """Logits at all positions of the prompts.

    Where B stores another type than A, its logits cannot be A's. A's weights are then rounded to B's types
    first: whether B's are exactly that, the tensors level decides; this one, whether they are used alike.
    Cost: weights read once; A's a second time where B is quantised, all a second time, in float64, where float32
    is too noisy to prove anything.
    """
    found = _compared(a, b, computing, computing.precision or "float32")
    if found.exact and computing.precision is None and computing.has_float64 and not found.gate <= CEILING:
        return _compared(a, b, computing, "float64")
    return found


def _compared(a: Checkpoint, b: Checkpoint, computing: Computing, precision: str) -> LogitsResult:
    sequences, coded = prompts(a, b), _coded(a, b)
    exact, how = all(map(recomputable, coded)), (PRECISIONS[precision], computing.device)
    with ahead(rounded_as(b, *how), a) as of_a, ahead(load_as(*how), b) as of_b:
        found = compare(Run(a, sequences, of_a), Run(b, sequences, of_b))
    plain = _logits(a, sequences, load_as(*how)) if coded else found.a
    own = 0.0 if precision == "float64" else _distance_of_a_layer(a, sequences, computing, precision)
    noise, floor = max(found.noise, own), FLOORS[precision]
    return LogitsResult(
        positions=len(found.a),
        difference=found.difference,
        noise=noise,
        gate=max(SAFETY * noise, floor),
        exact=exact,
        precision=precision,
        rounded=bool(coded) or a.dtype is not b.dtype,
        likeness=likeness(plain, found.b, sequences),
        allowed=None if exact else _allowed(plain, _logits(a, sequences, disturbed_as(b, *how)), sequences, b),
        places=tuple(_place(gap, max(SAFETY * max(gap.noise, own), floor) if exact else None) for gap in found.gaps),
    )


def _logits(checkpoint: Checkpoint, sequences: tuple[Prompt, ...], load: Load) -> Tensor:
    with ahead(load, checkpoint) as loaded:
        return torch.cat(logits_of(checkpoint, sequences, loaded))


def _allowed(plain: Tensor, disturbed: Tensor, sequences: tuple[Prompt, ...], b: Checkpoint) -> Allowed | None:
    """What is published for the type or, where this model is more sensitive, what noise as large as its error costs.

    Text that is not the model's own can become more or less likely, by about the square root of twice the divergence.
    """
    known = expected(b)
    if known is None:
        return None
    divergence = max(known.divergence, LOSS * likeness(plain, disturbed, sequences).mean_divergence)
    ratio = max(known.perplexity_ratio, math.exp(math.sqrt(2 * divergence)))
    return Allowed(name=known.name, divergence=divergence, perplexity_ratio=ratio)


def _coded(a: Checkpoint, b: Checkpoint) -> list[Piece]:
    """B's quantised weights, but for those that are as A has them."""
    own = {weight: {stored_type(piece) for piece in parts.pieces} for weight, parts in a.parts.items()}
    return [
        piece
        for weight, parts in b.parts.items()
        for piece in parts.pieces
        if stored_type(piece) in MEASURED and {stored_type(piece)} != own.get(weight)
    ]


def _place(gap: Gap, gate: float | None) -> Detail:
    """gate: None where the difference is not judged."""
    near = Outcome.NOT_JUDGED if gate is None else Outcome.NEAR if gap.difference <= gate else Outcome.FAR
    operation, layer = gap.place
    return Detail(
        name=operation.value, layer=layer, outcome=near, difference=gap.difference, gate=gate, noise=gap.noise
    )


def _parting(place: Detail) -> Parting | None:
    if place.difference is None or place.gate is None:
        return None
    return Parting(operation=place.name, layer=place.layer, difference=place.difference, gate=place.gate)


def _distance_of_a_layer(a: Checkpoint, sequences: tuple[Prompt, ...], computing: Computing, precision: str) -> float:
    """How far this device, in this precision, brings one layer from float64.

    Another order of sums cannot show what every order rounds alike: a device that computes in fewer bits than
    it says would have its noise taken for that of float32.
    """
    first, exact = Run(a, sequences[:1], load_as(PRECISIONS[precision], computing.device)), "cpu"
    state = after(first, Place(Operation.EMBEDDING), torch.empty(0))
    wanted = after(
        Run(a, sequences[:1], load_as(torch.float64, exact)), Place(Operation.ATTENTION, 0), state.to(exact).double()
    )
    return distance(wanted, after(first, Place(Operation.ATTENTION, 0), state).to(exact).double())
