"""The Llama versions: what each means, and which of them a checkpoint's own files show.

Facts are from the released files' params.json and from Meta's model cards. What no file holds (3.1 or
3.3, base or instruct) only the user can say; what the files hold, the user can only confirm.
"""

from __future__ import annotations

from dataclasses import dataclass

from llama_convert.convert.architecture import LlamaConfig, RopeScaling
from llama_convert.convert.errors import CheckpointError, UsageError
from llama_convert.convert.rope import released_scaling
from llama_convert.convert.tokenizers.kinds import TokenizerKind


@dataclass(frozen=True, slots=True)
class Version:
    """One release of Llama.

    context: positions it was made for. rope_factor: the stretching its checkpoints mean when they
    only say "scaled"; None where no release of it is scaled.
    """

    name: str
    title: str
    tokenizer: TokenizerKind
    context: int
    rope_factor: float | None


_TIKTOKEN, _SENTENCEPIECE = TokenizerKind.TIKTOKEN, TokenizerKind.SENTENCEPIECE

VERSIONS = {
    version.name: version
    for version in (
        Version("1", "Llama 1", _SENTENCEPIECE, 2048, None),
        Version("2", "Llama 2", _SENTENCEPIECE, 4096, None),
        Version("code", "Code Llama", _SENTENCEPIECE, 16384, None),
        Version("3", "Llama 3", _TIKTOKEN, 8192, None),
        Version("3.1", "Llama 3.1", _TIKTOKEN, 131072, 8.0),
        Version("3.2", "Llama 3.2", _TIKTOKEN, 131072, 32.0),
        Version("3.3", "Llama 3.3", _TIKTOKEN, 131072, 8.0),
        Version("guard-1", "Llama Guard 1", _SENTENCEPIECE, 4096, None),
        Version("guard-2", "Llama Guard 2", _TIKTOKEN, 8192, None),
        Version("guard-3", "Llama Guard 3", _TIKTOKEN, 131072, 8.0),
    )
}

# (hidden_size, layers) of the releases whose sizes tell their version.
_SIZES_OF_3_2 = {(2048, 16), (3072, 28)}
_SIZES_OF_3_1 = {(4096, 32), (8192, 80), (16384, 126)}
_SIZE_OF_LLAMA_1_65B = (8192, 80)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a checkpoint's files say that tells versions apart.

    scaled: the rotary wavelengths are stretched. rope_factor: by how much; None where the files do not say.
    grouped: fewer kv heads than heads.
    """

    tokenizer: TokenizerKind
    scaled: bool
    rope_factor: float | None
    rope_theta: float
    norm_eps: float
    hidden_size: int
    layers: int
    grouped: bool
    tied: bool

    def __str__(self) -> str:
        scaled = "scaled" if self.scaled else "unscaled"
        tied = ", tied head" if self.tied else ""
        return (
            f"{self.tokenizer.value} tokenizer, {scaled} RoPE with theta {self.rope_theta:g}, "
            f"norm_eps {self.norm_eps:g}, {self.layers} layers of {self.hidden_size}{tied}"
        )


def fitting(evidence: Evidence) -> tuple[Version, ...]:
    """The versions that the evidence admits, the likeliest first."""
    names = _fitting_tiktoken(evidence) if evidence.tokenizer is _TIKTOKEN else _fitting_sentencepiece(evidence)
    return tuple(VERSIONS[name] for name in names)


def _fitting_tiktoken(evidence: Evidence) -> tuple[str, ...]:
    size = (evidence.hidden_size, evidence.layers)
    if not evidence.scaled:
        return ("3", "guard-2", "guard-3")
    if size in _SIZES_OF_3_2:
        return ("3.2", "guard-3")
    if size in _SIZES_OF_3_1:
        return ("3.1", "3.3", "guard-3")
    # A size of nobody's release: the factor tells, and only 3.2 ties its head.
    names = ("3.2", "guard-3", "3.1", "3.3") if evidence.tied else ("3.1", "3.2", "3.3", "guard-3")
    return tuple(name for name in names if evidence.rope_factor in (None, VERSIONS[name].rope_factor)) or names


def _fitting_sentencepiece(evidence: Evidence) -> tuple[str, ...]:
    if evidence.rope_theta != 10000.0:
        return ("code",)
    first_65b = (evidence.hidden_size, evidence.layers) == _SIZE_OF_LLAMA_1_65B and not evidence.grouped
    if evidence.norm_eps == 1e-6 or first_65b:
        return ("1",)
    return ("2", "guard-1")


def known_version(name: str) -> Version:
    """The version a user names: `3.1`, `Guard-3`, `llama-2`, `code`. UsageError for any other."""
    key = name.lower().removeprefix("llama").strip("-_ ")
    key = {"codellama": "code", "code-llama": "code"}.get(key, key)
    if key not in VERSIONS:
        raise UsageError(
            f"--llama-version {name}: there is no such version",
            advice="Known are " + ", ".join(VERSIONS) + ". Leave the option out: the files tell.",
        )
    return VERSIONS[key]


def evidence_of(config: LlamaConfig) -> Evidence:
    """What a config whose every value comes from its files says; Llama 3 and later are known by their theta."""
    llama_3 = config.rope_scaling is not None or config.rope_theta not in (10000.0, 1000000.0)
    return Evidence(
        tokenizer=_TIKTOKEN if llama_3 else _SENTENCEPIECE,
        scaled=config.rope_scaling is not None,
        rope_factor=config.rope_scaling.factor if config.rope_scaling else None,
        rope_theta=config.rope_theta,
        norm_eps=config.norm_eps,
        hidden_size=config.hidden_size,
        layers=config.layers,
        grouped=config.kv_heads != config.heads,
        tied=config.tied,
    )


def confirm(asked: str | None, evidence: Evidence) -> tuple[Version, ...]:
    """The versions that the evidence admits, or the one asked for; CheckpointError where the files contradict that."""
    fits = fitting(evidence)
    if asked is None:
        return fits
    wanted = known_version(asked)
    if wanted not in fits:
        raise CheckpointError(
            f"--llama-version {asked} contradicts the files, which show {' or '.join(v.title for v in fits)}",
            problems=[f"the files say: {evidence}"],
            advice="Leave the option out to go by the files.",
        )
    return (wanted,)


def rope_scaling(version: Version, evidence: Evidence) -> RopeScaling | None:
    """The stretching that "scaled" means for this version; Meta's files store no factor.

    Guard 3 is a fine-tune of 3.2 at 1B, of 3.1 at 8B.
    """
    if not evidence.scaled:
        return None
    if version.name == "guard-3" and (evidence.tied or (evidence.hidden_size, evidence.layers) in _SIZES_OF_3_2):
        version = VERSIONS["3.2"]
    if version.rope_factor is None:
        raise AssertionError(f"{version.name} is not among the versions that fit a scaled checkpoint")
    return released_scaling(version.rope_factor)
