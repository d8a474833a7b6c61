"""Sizes of the book's files: what shapes do not show, who may say it, and what scratch_config.json says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llama_convert.convert import open_checkpoint
from llama_convert.convert.architecture import RopeScaling
from llama_convert.convert.errors import CheckpointError, UsageError
from tests.book_reference import book_config, book_state, saved
from tests.checkpoints import random_model

# Sizes that no test needs to compute with, as real ones: (hidden, layers, inner, key rows, vocabulary).
SIZES_1B = (2048, 16, 8192, 512, 128256)
SIZES_3B = (3072, 28, 8192, 1024, 128256)
SIZES_8B = (4096, 32, 14336, 1024, 128256)
SIZES_7B = (4096, 32, 11008, 4096, 32000)


def hollow(path: Path, sizes: tuple[int, ...], *, tied: bool = False) -> Path:
    """A file with the shapes of a real release and next to no bytes: every tensor repeats one element."""
    hidden, layers, inner, key_rows, vocab = sizes
    shapes = {
        "att.W_key": (key_rows, hidden),
        "att.W_value": (key_rows, hidden),
        "att.W_query": (hidden, hidden),
        "att.out_proj": (hidden, hidden),
        "ff.fc1": (inner, hidden),
        "ff.fc2": (inner, hidden),
        "ff.fc3": (hidden, inner),
        "norm1": (hidden,),
        "norm2": (hidden,),
    }
    state = {"tok_emb.weight": torch.zeros(1, dtype=torch.bfloat16).expand(vocab, hidden)}
    for layer in range(layers):
        for name, shape in shapes.items():
            state[f"trf_blocks.{layer}.{name}.weight"] = torch.ones(1, dtype=torch.bfloat16).expand(shape)
    state["final_norm.weight"] = torch.ones(1, dtype=torch.bfloat16).expand(hidden)
    state["out_head.weight"] = (
        state["tok_emb.weight"] if tied else torch.ones(1, dtype=torch.bfloat16).expand(vocab, hidden)
    )
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("sizes", "asked", "found"),
    [
        (SIZES_1B, None, ("3.2", 32, 8, 500000.0, 32.0, 131072)),
        (SIZES_3B, None, ("3.2", 24, 8, 500000.0, 32.0, 131072)),
        (SIZES_8B, None, ("3.1", 32, 8, 500000.0, 8.0, 131072)),
        (SIZES_8B, "3.1", ("3.1", 32, 8, 500000.0, 8.0, 131072)),
        (SIZES_8B, "3", ("3", 32, 8, 500000.0, None, 8192)),
        (SIZES_7B, None, ("2", 32, 32, 10000.0, None, 4096)),
        (SIZES_7B, "code", ("code", 32, 32, 1000000.0, None, 16384)),
        (SIZES_1B, "guard-3", ("guard-3", 32, 8, 500000.0, 32.0, 131072)),
    ],
)
def test_a_release_is_known_by_its_shapes(
    sizes: tuple[int, ...], asked: str | None, found: tuple[object, ...], tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(hollow(tmp_path / "m.pth", sizes, tied=sizes in (SIZES_1B, SIZES_3B)), asked)
    config = checkpoint.config
    factor = config.rope_scaling.factor if config.rope_scaling else None
    assert (
        checkpoint.version.name,
        config.heads,
        config.kv_heads,
        config.rope_theta,
        factor,
        config.context,
    ) == found


def test_what_was_taken_of_two_releases_is_said(tmp_path: Path) -> None:
    path = hollow(tmp_path / "m.pth", SIZES_8B)
    assert open_checkpoint(path).notes == (
        "taken as Llama 3.1, with theta 500000, scaled by 8: the file does not say, and Llama 3, Llama Guard 3, "
        "Llama Guard 2 have the same shapes. --llama-version tells.",
    )
    assert open_checkpoint(path, "3").notes == ()
    assert open_checkpoint(path, assume={"rope_theta": "500000", "rope_factor": "none"}).notes == ()


def test_a_version_of_other_shapes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"--llama-version 3\.1 contradicts the shapes.*Llama 3\.2"):
        open_checkpoint(hollow(tmp_path / "m.pth", SIZES_1B), "3.1")


@pytest.mark.parametrize(
    ("assumed", "asked", "missing"),
    [
        ({}, None, "heads, rope_theta, rope_factor, context"),
        ({"heads": "12", "context": "8192"}, None, "rope_theta, rope_factor"),
        ({"rope_theta": "500000", "rope_factor": "none"}, None, "heads, context"),
        ({}, "3.1", "heads"),
    ],
)
def test_what_nothing_tells_is_asked_for(
    assumed: dict[str, str], asked: str | None, missing: str, tmp_path: Path
) -> None:
    model = random_model("3.1")
    with pytest.raises(CheckpointError, match=rf"(?m)tell {missing}$") as error:
        open_checkpoint(saved(model, tmp_path, book_state(model)), asked, assumed)
    assert all(f"--assume {name}=" in error.value.advice for name in missing.split(", "))


@pytest.mark.parametrize("known", [{"heads": "12"}, {"kv_heads": "4"}, {"heads": "12", "kv_heads": "4"}])
def test_a_version_and_the_heads_are_enough(known: dict[str, str], tmp_path: Path) -> None:
    model = random_model("3.1")
    config = open_checkpoint(saved(model, tmp_path, book_state(model)), "3.1", known).config
    assert (config.heads, config.kv_heads, config.head_dim, config.context) == (12, 4, 16, 131072)


@pytest.mark.parametrize(
    ("assumed", "words"),
    [
        ({"heads": "7"}, "does not divide into 7 heads"),
        ({"heads": "64"}, "does not divide into 64 heads of even size"),
        ({"heads": "1000"}, "does not divide into 1000 heads"),
        ({"heads": "2"}, "rows of W_key are not heads of 96"),
        ({"heads": "12", "kv_heads": "2"}, "are 4 heads of 16, kv_heads was given as 2"),
    ],
)
def test_heads_that_the_shapes_refute(assumed: dict[str, str], words: str, tmp_path: Path) -> None:
    model = random_model("3.1")
    with pytest.raises(CheckpointError, match="the shapes do not fit") as error:
        open_checkpoint(saved(model, tmp_path, book_state(model)), "3.1", assumed)
    assert words in error.value.problems[0]


def test_values_that_are_none(tmp_path: Path) -> None:
    model = random_model("3.1")
    path = saved(model, tmp_path, book_state(model))
    with pytest.raises(UsageError) as error:
        open_checkpoint(path, assume={"heads": "x", "rope_theta": "-1", "context": "0", "rotary": "both"})
    for words in (
        "heads=x: wanted a whole",
        "rope_theta=-1: wanted a number",
        "context=0",
        "rotary=both: wanted pairs",
    ):
        assert words in error.value.summary
    with pytest.raises(UsageError, match="not for LLMs-from-scratch"):
        open_checkpoint(path, assume={"n_heads": "12"})


# ---- scratch_config.json ----

CONFIG = {
    "vocab_size": 768,
    "context_length": 8192,
    "emb_dim": 192,
    "n_heads": 12,
    "n_layers": 2,
    "hidden_dim": 704,
    "n_kv_groups": 4,
    "rope_base": 500000,
    "rope_freq": None,
}
ROPE = {"factor": 4.0, "low_freq_factor": 2.0, "high_freq_factor": 8.0, "original_context_length": 1024}


def configured(tmp_path: Path, **changes: object) -> Path:
    """A file with its configuration beside it; `...` removes a key."""
    model = random_model("3")
    path = saved(model, tmp_path, book_state(model))
    sizes = {"vocab_size": model.vocab, "hidden_dim": book_config(model)["hidden_dim"]}
    values = {key: value for key, value in (CONFIG | sizes | changes).items() if value is not ...}
    (tmp_path / "scratch_config.json").write_text(json.dumps(values))
    return path


def test_the_config_beside_it_says_everything(tmp_path: Path) -> None:
    config = open_checkpoint(configured(tmp_path, context_length=1234, rope_base=7e5, rope_freq=ROPE)).config
    assert (config.context, config.rope_theta, config.heads, config.kv_heads) == (1234, 700000.0, 12, 4)
    assert config.rope_scaling == RopeScaling(
        factor=4.0, low_frequency_factor=2.0, high_frequency_factor=8.0, original_context=1024
    )


def test_what_is_assumed_beats_the_config(tmp_path: Path) -> None:
    path = configured(tmp_path, rope_freq=ROPE)
    config = open_checkpoint(path, assume={"rope_factor": "8", "context": "99", "heads": "24"}).config
    assert config.rope_scaling is not None
    assert (config.rope_scaling.factor, config.rope_scaling.low_frequency_factor, config.context) == (8.0, 2.0, 99)
    assert (config.heads, config.kv_heads, config.head_dim) == (24, 8, 8)
    assert open_checkpoint(path, assume={"rope_factor": "none"}).config.rope_scaling is None


def test_the_keys_of_llama_2(tmp_path: Path) -> None:
    """LLAMA2_CONFIG_7B has neither groups nor theta: the class has no other."""
    model = random_model("2")
    path = saved(model, tmp_path, book_state(model))
    sizes = {key: value for key, value in book_config(model, context=4096).items() if key in list(CONFIG)[:6]}
    (tmp_path / "scratch_config.json").write_text(json.dumps(sizes))
    config = open_checkpoint(path).config
    assert (config.kv_heads, config.rope_theta, config.rope_scaling) == (12, 10000.0, None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_heads": ...}, "lacks n_heads"),
        ({"rope_freq": ...}, "lacks rope_freq"),
        ({"rope_base": ...}, "lacks rope_base"),
        ({"n_heads": "12"}, "n_heads is '12'"),
        ({"n_layers": 0}, "n_layers must be at least 1"),
        ({"n_layers": 1 << 40}, "more than any model has"),
        ({"n_heads": 7}, "does not divide into 7 heads"),
        ({"rope_freq": 8}, "rope_freq is 8"),
        ({"rope_freq": {"factor": 8.0}}, "rope_freq lacks low_freq_factor"),
        ({"n_layers": 3}, "missing  trf_blocks.2.att.W_query.weight"),
        ({"hidden_dim": 64}, "scratch_config.json says (64, 192)"),
    ],
)
def test_a_config_that_is_wrong(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(configured(tmp_path, **changes))
    assert words in str(error.value)
