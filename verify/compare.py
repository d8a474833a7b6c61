"""The logits level: both sides run in their own convention, the numbers held against a measured noise floor."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from llama_convert.convert.architecture import Weight
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.verify import devices
from llama_convert.verify.ahead import read_ahead
from llama_convert.verify.devices import PRECISIONS, Computing
from llama_convert.verify.forward import Load, Operation, Place, Run, after, load_as, logits_of, stored_head
from llama_convert.verify.likeness import Likeness, likeness
from llama_convert.verify.lockstep import Comparison, compare, distance
from llama_convert.verify.prompts import Prompt, prompts
from llama_convert.verify.reading import Piece, read, rounded_like
from llama_convert.verify.report import LevelResult, Parting, judged, not_checked

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


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsResult:
    """How far B's logits are from A's.

    difference: the largest at any position and token; noise: what rounding alone brings, measured in the same
    run; gate: the most that difference may be. All in spreads of A's logits.
    likeness: information, except for quantised types. precision: what was computed in. rounded: A's weights
    were rounded to B's types first. parting: the first place where the two part by more than rounding explains.
    """

    positions: int
    difference: float
    noise: float
    gate: float
    precision: str
    rounded: bool
    likeness: Likeness
    parting: Parting | None

    @property
    def passed(self) -> bool:
        """Whether the difference can be explained by rounding."""
        return self.difference <= self.gate


def check_logits(a: Checkpoint, b: Checkpoint | None, computing: Computing) -> tuple[LevelResult, Parting | None]:
    """Whether B computes what A computes, and where not; with A alone, whether its logits are finite."""
    with devices.exact():
        if b is None:
            return _alone(a, computing), None
        if reason := _incomparable(a, b):
            return judged(NAME, "no logits to compare", (reason,)), None
        found = compare_logits(a, b, computing)
        return _judged(found, computing), found.parting


def _incomparable(a: Checkpoint, b: Checkpoint) -> str | None:
    """Models that have no places in common to be compared at."""
    sizes = {"vocab_size": "rows of the vocabulary", "layers": "layers", "hidden_size": "columns"}
    found = [(getattr(a.config, size), getattr(b.config, size), words) for size, words in sizes.items()]
    return next((f"{before} {words} against {after}" for before, after, words in found if before != after), None)


def _judged(found: LogitsResult, computing: Computing) -> LevelResult:
    alike = found.likeness
    figures = (
        f"{found.positions} positions in {found.precision} on {computing.name}: difference {found.difference:.1e}, "
        f"gate {found.gate:.1e}, noise {found.noise:.1e}; same first token {alike.same_first:.1%}, divergence "
        f"{alike.largest_divergence:.1e}, perplexity {alike.perplexity_a:.6g} and {alike.perplexity_b:.6g}"
    )
    if found.rounded:
        figures += "; A rounded to B's types before"
    measures = {
        "positions": found.positions,
        "difference": found.difference,
        "noise": found.noise,
        "precision": found.precision,
        "device": computing.name,
        **asdict(alike),
    }
    if found.passed and not found.gate <= CEILING:
        return not_checked(
            NAME,
            f"{figures}; a gate above {CEILING:.0e} proves nothing: leave --compute away, or ask for float64",
            measures=measures,
            gate=found.gate,
        )
    finding = f"logits differ by {found.difference:.3g} of their spread, rounding explains {found.gate:.1g}"
    return judged(NAME, figures, () if found.passed else (finding,), measures=measures, gate=found.gate)


def _alone(a: Checkpoint, computing: Computing) -> LevelResult:
    sequences = prompts(a)
    with _loading(a, computing.precision or "float32", computing) as load:
        found = torch.cat(logits_of(a, sequences, load))
    wrong, spread, largest = int((~found.isfinite()).sum()), found.std().item(), found.abs().max().item()
    figures = f"{len(found)} positions on {computing.name}: spread {spread:.3g}, largest {largest:.3g}"
    findings = (f"{wrong:,} of {found.numel():,} logits are NaN or infinite",) if wrong else ()
    return judged(NAME, figures, findings, measures={"spread": spread, "largest": largest, "not_finite": wrong})


def compare_logits(a: Checkpoint, b: Checkpoint, computing: Computing) -> LogitsResult:
    """Logits at all positions of the prompts.

    Where B stores another type than A, its logits cannot be A's. A's weights are then rounded to B's types
    first: whether B's are exactly that, the tensors level decides; this one, whether they are used alike.
    Cost: weights read once; a second time, in float64, where float32 is too noisy to prove anything.
    """
    found = _compared(a, b, computing, computing.precision or "float32")
    if computing.precision is None and computing.has_float64 and not found.gate <= CEILING:
        return _compared(a, b, computing, "float64")
    return found


def _compared(a: Checkpoint, b: Checkpoint, computing: Computing, precision: str) -> LogitsResult:
    sequences = prompts(a, b)
    with _loading(a, precision, computing, b) as of_a, _loading(b, precision, computing) as of_b:
        found = compare(Run(a, sequences, of_a), Run(b, sequences, of_b))
    own = 0.0 if precision == "float64" else _distance_of_a_layer(a, sequences, computing, precision)
    noise, floor = max(found.noise, own), FLOORS[precision]
    return LogitsResult(
        positions=len(found.a),
        difference=found.difference,
        noise=noise,
        gate=max(SAFETY * noise, floor),
        precision=precision,
        rounded=a.dtype is not b.dtype,
        likeness=likeness(found.a, found.b, sequences),
        parting=_parting(found, own, floor),
    )


def _parting(found: Comparison, own: float, floor: float) -> Parting | None:
    """The first place where the two are further apart than rounding brings A from itself."""
    for gap in found.gaps:
        gate = max(SAFETY * max(gap.noise, own), floor)
        if not gap.difference <= gate:
            operation, layer = gap.place
            return Parting(operation=operation.value, layer=layer, difference=gap.difference, gate=gate)
    return None


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


@contextmanager
def _loading(
    checkpoint: Checkpoint, precision: str, computing: Computing, like: Checkpoint | None = None
) -> Iterator[Load]:
    """Weights in that precision on that device, read ahead; rounded as `like` stores them."""
    compute = PRECISIONS[precision]
    load = load_as(compute, computing.device) if like is None else _rounded_like(like, compute, computing.device)
    with ThreadPoolExecutor(1, thread_name_prefix="read") as executor:
        yield read_ahead(load, checkpoint, executor)
        executor.shutdown(cancel_futures=True)


def _rounded_like(b: Checkpoint, compute: torch.dtype, device: str) -> Load:
    """A's weights through the types in which B stores the same weights."""

    def load(weight: Weight, piece: Piece) -> Tensor:
        parts = b.parts[weight if weight in b.parts else stored_head(b)]
        return rounded_like(read(piece), parts.pieces[0]).to(device).to(compute)

    return load
