"""Which Llama the files show: every release by its real sizes, without any file."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from llama_convert.convert.errors import CheckpointError, UsageError
from llama_convert.convert.tokenizers.kinds import TokenizerKind
from llama_convert.convert.versions import VERSIONS, Evidence, confirm, fitting, known_version, rope_scaling

SENTENCEPIECE, TIKTOKEN = TokenizerKind.SENTENCEPIECE, TokenizerKind.TIKTOKEN


@dataclass(frozen=True)
class Release:
    """A released params.json, and the versions it must be taken for, the likeliest first."""

    title: str
    versions: tuple[str, ...]
    dim: int
    layers: int
    grouped: bool = True
    eps: float = 1e-5
    theta: float = 500000.0
    scaled: bool = False
    tied: bool = False
    factor: float | None = None

    @property
    def evidence(self) -> Evidence:
        return Evidence(
            tokenizer=TIKTOKEN if self.theta == 500000.0 else SENTENCEPIECE,
            scaled=self.scaled,
            rope_factor=None,
            rope_theta=self.theta,
            norm_eps=self.eps,
            hidden_size=self.dim,
            layers=self.layers,
            grouped=self.grouped,
            tied=self.tied,
        )


ONE, TWO, CODE = ("1",), ("2", "guard-1"), ("code",)
THREE, THREE_1, THREE_2 = ("3", "guard-2", "guard-3"), ("3.1", "3.3", "guard-3"), ("3.2", "guard-3")
RELEASES = [
    Release("Llama 1 7B", ONE, 4096, 32, grouped=False, eps=1e-6, theta=1e4),
    Release("Llama 1 13B", ONE, 5120, 40, grouped=False, eps=1e-6, theta=1e4),
    Release("Llama 1 30B", ONE, 6656, 60, grouped=False, eps=1e-6, theta=1e4),
    Release("Llama 1 65B", ONE, 8192, 80, grouped=False, theta=1e4),
    Release("Llama 2 7B, Guard 1", TWO, 4096, 32, grouped=False, theta=1e4),
    Release("Llama 2 13B", TWO, 5120, 40, grouped=False, theta=1e4),
    Release("Llama 2 70B", TWO, 8192, 80, theta=1e4),
    Release("Code Llama 7B", CODE, 4096, 32, grouped=False, theta=1e6),
    Release("Code Llama 13B", CODE, 5120, 40, grouped=False, theta=1e6),
    Release("Code Llama 34B", CODE, 8192, 48, theta=1e6),
    Release("Code Llama 70B", CODE, 8192, 80, theta=1e6),
    Release("Llama 3 8B, Guard 2", THREE, 4096, 32),
    Release("Llama 3 70B", THREE, 8192, 80),
    Release("Llama 3.1 8B, Guard 3 8B", THREE_1, 4096, 32, scaled=True, factor=8),
    Release("Llama 3.1 and 3.3 70B", THREE_1, 8192, 80, scaled=True, factor=8),
    Release("Llama 3.1 405B", THREE_1, 16384, 126, scaled=True, factor=8),
    Release("Llama 3.2 1B, Guard 3 1B", THREE_2, 2048, 16, scaled=True, tied=True, factor=32),
    Release("Llama 3.2 3B", THREE_2, 3072, 28, scaled=True, tied=True, factor=32),
]


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.title)
def test_a_release_is_known_by_its_sizes(release):
    found = fitting(release.evidence)
    assert tuple(version.name for version in found) == release.versions
    for version in found:  # whatever the user says it is, among what fits
        scaling = rope_scaling(version, release.evidence)
        assert (scaling and scaling.factor) == release.factor
        if scaling:
            assert (scaling.low_frequency_factor, scaling.high_frequency_factor, scaling.original_context) == (
                1,
                4,
                8192,
            )


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.title)
def test_the_user_may_confirm_but_not_contradict(release):
    fits = fitting(release.evidence)
    assert confirm(None, release.evidence) == fits
    for name, version in VERSIONS.items():
        if name in release.versions:
            assert confirm(name, release.evidence) == (version,)
        else:
            with pytest.raises(CheckpointError, match="contradicts the files") as caught:
                confirm(name, release.evidence)
            assert fits[0].title in caught.value.summary
            assert str(release.evidence) in caught.value.problems[0]


def test_every_version_is_somebodys():
    assert {name for release in RELEASES for name in release.versions} == set(VERSIONS)


def test_a_guard_3_that_says_unscaled_is_believed():
    release = replace(RELEASES[13], scaled=False)
    assert confirm("guard-3", release.evidence) == (VERSIONS["guard-3"],)
    assert rope_scaling(VERSIONS["guard-3"], release.evidence) is None


@pytest.mark.parametrize(("tied", "first", "factor"), [(True, "3.2", 32), (False, "3.1", 8)])
def test_of_a_size_of_nobodys_only_the_tied_head_tells(tied, first, factor):
    evidence = Release("own", (), 256, 4, scaled=True, tied=tied).evidence
    found = fitting(evidence)
    assert (found[0].name, {version.name for version in found}) == (first, {"3.1", "3.2", "3.3", "guard-3"})
    assert rope_scaling(found[0], evidence).factor == factor
    assert rope_scaling(VERSIONS["guard-3"], evidence).factor == factor


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("3.1", "3.1"), ("Llama-3.1", "3.1"), ("llama 2", "2"), ("Guard-3", "guard-3"), ("Llama-Guard-1", "guard-1"),
     ("CodeLlama", "code"), ("code-llama", "code"), ("CODE", "code"), ("llama_3", "3")],
)  # fmt: skip
def test_names_people_give(name, wanted):
    assert known_version(name).name == wanted


@pytest.mark.parametrize("name", ["4", "3.4", "", "llama", "mistral"])
def test_an_unknown_version_is_wrong_usage(name):
    with pytest.raises(UsageError, match="there is no such version"):
        known_version(name)
