"""Which client judges which files, and how far it may stray.

Gates are in spreads of the logits, some three times the most that was measured; what the controls must exceed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.clients import workshop
from tests.clients.asking import ask, distance, verified
from tests.clients.workshop import Fault, Files, Workshop
from tests.meta_reference import transformers_logits

VERSIONS = ("3", "3.1", "3.2")  # plain, scaled, and scaled with a tied head
# Clients that compute in float32. Measured: 1.8e-5 those on torch, 5.4e-5 the others; a lost scaling makes 0.2.
FLOAT32 = 1.5e-4
# llama.cpp rounds what it multiplies such weights with, to bfloat16 or to 8 bits. Measured: 0.15 and 0.43; q and
# k in the wrong order make 6.5. tinygrad is strict on the same files.
ROUNDED = {"bfloat16": 0.5, "q8_0": 1.0, "q4_0": 1.0}


@dataclass(frozen=True, slots=True)
class Outcome:
    passed: bool
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Logits:
    """The client computes, and encodes texts where it can: logits as Meta's code has them, ids as Meta's tokenizer.

    kind, scaled: the reference, as for workshop.logits.
    """

    client: str
    judge: str
    files: Files
    gate: float = FLOAT32
    kind: str | None = None
    scaled: bool = True

    @property
    def name(self) -> str:
        return self.files.name

    def judged(self, shop: Workshop) -> Outcome:
        answer = ask(self.client, self.judge, shop.files(self.files), workshop.question(self.files.version))
        found = distance(workshop.logits(self.files.version, self.kind, self.scaled), answer.scores)
        same = answer.facts.get("ids", workshop.ids()) == workshop.ids()
        words = ("  ids equal" if same else "  ids DIFFER") if "ids" in answer.facts else ""
        return Outcome(found <= self.gate and same, f"{found:.1e}  gate {self.gate:.1e}{words}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Converter:
    """llama.cpp's converter writes from our Hugging Face folder what we write as GGUF from Meta's files."""

    version: str
    options: tuple[str, ...]
    kind: str
    fault: Fault | None = None
    client: str = "llamacpp-converter"

    @property
    def files(self) -> Files:
        return Files(version=self.version, steps=(("--to", "hf"),), fault=self.fault)

    @property
    def name(self) -> str:
        return f"{self.files.name} as {self.kind}"

    def judged(self, shop: Workshop) -> Outcome:
        ours = shop.files(Files(version=self.version, steps=(("--to", "gguf", *self.options),)))
        question = {"gguf": str(ours), "type": self.kind}
        facts = ask(self.client, "converter_of_llamacpp", shop.files(self.files), question).facts
        wrong = facts["differences"]
        words = f"{len(wrong)} differences: {', '.join(wrong[:4])}" if wrong else "every byte equal"
        return Outcome(not wrong and facts["pre"] == "llama-bpe", f"{facts['pre']}, {words}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantised:
    """What mlx-lm quantised, and how it computes with that, is the reference; llama-convert must read it."""

    version: str
    client: str = "mlx"

    @property
    def files(self) -> Files:
        return Files(version=self.version, steps=(("--to", "hf"),))

    @property
    def name(self) -> str:
        return f"{self.version} quantised by mlx-lm"

    def judged(self, shop: Workshop) -> Outcome:
        made = shop.root / self.name.replace(" ", "-")
        question = workshop.question(self.version) | {"made": str(made)}
        reference = ask(self.client, "quantised_by_mlx", shop.files(self.files), question).scores
        read = made.with_name(f"{made.name}-hf")
        workshop.convert(made, read, ("--to", "hf", "--dtype", "float32"))
        found = distance(reference, transformers_logits(read, workshop.TOKENS))
        return Outcome(found <= FLOAT32, f"{found:.1e}  gate {FLOAT32:.1e}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """Our own `verify --against`, with the client as the library."""

    version: str
    options: tuple[str, ...]
    client: str = "xllamacpp"

    @property
    def files(self) -> Files:
        return Files(version=self.version, steps=(("--to", "gguf", *self.options),))

    @property
    def name(self) -> str:
        return f"verify {self.files.name}"

    def judged(self, shop: Workshop) -> Outcome:
        level = verified(self.client, "xllamacpp", shop.files(self.files), "llama-cpp")
        return Outcome(level["verdict"] == "passed", "; ".join([level["figures"], *level["findings"]]))


Case = Logits | Converter | Quantised | Against


def every() -> Iterator[Case]:
    yield from xllamacpp()
    yield from tinygrad()
    yield from mlx()
    yield from torchtune()
    yield from with_controls("litgpt", "folder_in_litgpt", "litgpt")
    yield from converter()
    yield from with_controls("scratch", "folder_in_scratch", "scratch")


def xllamacpp() -> Iterator[Case]:
    def case(version: str, *options: str, fault: Fault | None = None) -> Logits:
        files = Files(version=version, steps=(("--to", "gguf", *options),), fault=fault)
        gate, kind = ROUNDED.get(options[1], FLOAT32), quantised(options)
        return Logits(client="xllamacpp", judge="gguf_in_llamacpp", files=files, gate=gate, kind=kind)

    for version in VERSIONS:
        for options in (("--dtype", "float32"), ("--dtype", "bfloat16"), *QUANTISED):
            yield case(version, *options)
    yield case("3", "--dtype", "float32", fault="rows")
    yield case("3.1", "--dtype", "float32", fault="scaling")
    yield case("3", "--quantize", "q4_0", fault="rows")
    for options in (("--dtype", "float32"), ("--quantize", "q8_0")):
        yield Against(version="3.1", options=options)


QUANTISED = (("--quantize", "q8_0"), ("--quantize", "q4_0"))


def quantised(options: tuple[str, ...]) -> str | None:
    return options[1] if options[0] == "--quantize" else None


def tinygrad() -> Iterator[Case]:
    """It ignores the scaling: the reference is without, and against the right one it must fail."""

    def case(version: str, *options: str, fault: Fault | None = None) -> Logits:
        files = Files(version=version, steps=(("--to", "gguf", *options),), fault=fault)
        return Logits(
            client="tinygrad", judge="gguf_in_tinygrad", files=files, kind=quantised(options), scaled=version == "3"
        )

    for options in (("--dtype", "float32"), ("--dtype", "bfloat16"), *QUANTISED):
        yield case("3", *options)
    for options in QUANTISED:
        yield case("3.2", *options)
    yield case("3", "--quantize", "q4_0", fault="rows")


def mlx() -> Iterator[Case]:
    yield from with_controls("mlx", "folder_in_mlx", "hf")
    yield from (logits("mlx", "folder_in_mlx", version, "mlx") for version in VERSIONS)
    yield from (Quantised(version=version) for version in VERSIONS)


def torchtune() -> Iterator[Case]:
    """It reads no config, so it cannot notice a lost scaling. meta: written from our Hugging Face folder."""
    for way in (("hf",), ("hf", "meta"), ("torchtune",)):
        yield from (logits("torchtune", "folder_in_torchtune", version, *way) for version in VERSIONS)
        yield logits("torchtune", "folder_in_torchtune", "3", *way, fault="rows")


def converter() -> Iterator[Case]:
    yield Converter(version="3", options=("--dtype", "float32"), kind="f32")
    yield Converter(version="3.1", options=("--dtype", "bfloat16"), kind="bf16")
    yield Converter(version="3.2", options=("--quantize", "q8_0"), kind="q8_0")
    yield Converter(version="3", options=("--dtype", "float32"), kind="f32", fault="rows")


def with_controls(client: str, judge: str, way: str) -> Iterator[Case]:
    """Every version, and the two faults that the client must show."""
    yield from (logits(client, judge, version, way) for version in VERSIONS)
    yield logits(client, judge, "3", way, fault="rows")
    yield logits(client, judge, "3.1", way, fault="scaling")


def logits(client: str, judge: str, version: str, *way: str, fault: Fault | None = None) -> Logits:
    steps = tuple(("--to", name) for name in way)
    return Logits(client=client, judge=judge, files=Files(version=version, steps=steps, fault=fault))
