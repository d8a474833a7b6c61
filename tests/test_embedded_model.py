"""The model that ships in the wheel: a real Meta checkpoint, small, and trained until it tells stories."""

from __future__ import annotations

import hashlib
import importlib
import json
import subprocess
import sys
import zipfile
from itertools import islice, pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.checkpoints import MetaModel
from tests.meta_reference import GATE, merge_shards, meta_logits, relative_difference

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED = ROOT / "cli" / "embedded"
SHARDS = ("consolidated.00.pth", "consolidated.01.pth")
PROMPT = "Once upon a time"
STORY = (
    "Once upon a time, a curious llama named Carlos lived near a tall mountain. "
    "One cloudy day, Carlos was out in the field when it began to rain, and soon his wool was all wet. "
    '"I do not like this rain," said Carlos. "I have a big red umbrella," said Daisy the cat. '
    '"There is room for two." They told each other funny stories until the rain stopped. '
    "Carlos learned that a rainy day can be a happy day."
)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Any:
    """name -> the module training.name, which is not installed."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"training.{name}")


@pytest.fixture(scope="module")
def model() -> MetaModel:
    return merge_shards(EMBEDDED)


def read_encoding(tokenizer: ModuleType) -> Any:
    return tokenizer.make_encoding(tokenizer.read_ranks(EMBEDDED / "tokenizer.model"))


def story_tokens(tokenizer: ModuleType) -> list[int]:
    return read_encoding(tokenizer).encode(f"{tokenizer.BEGIN}{STORY}{tokenizer.END}", allowed_special="all")


def wrong_guesses(model: MetaModel, tokens: list[int], known: int) -> int:
    """How many tokens after the first `known` are not the likeliest at their place.

    None of them: then greedy decoding says exactly this text, and one pass has shown it.
    """
    guesses = meta_logits(model, tokens)[known - 1 : -1].argmax(dim=-1)
    return int((guesses != torch.tensor(tokens[known:])).sum())


def test_greedy_decoding_tells_the_story(model: MetaModel, training: Any) -> None:
    tokens = story_tokens(training("tokenizer"))
    prompt = read_encoding(training("tokenizer")).encode(PROMPT)
    assert STORY.startswith(PROMPT)
    assert len(tokens) > 64, "short texts hide a wrong rotary order"
    assert wrong_guesses(model, tokens, known=1 + len(prompt)) == 0


def halves(weight: Tensor, head_dim: int = 32) -> Tensor:
    return torch.unflatten(weight, 0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)


def lose_rotary_order(weights: dict[str, Tensor]) -> None:
    for name in [name for name in weights if name.endswith(("wq.weight", "wk.weight"))]:
        weights[name] = halves(weights[name])


def swap_gate_and_up(weights: dict[str, Tensor]) -> None:
    for name in [name for name in weights if name.endswith("w1.weight")]:
        other = name.replace("w1", "w3")
        weights[name], weights[other] = weights[other], weights[name]


def forget_norms(weights: dict[str, Tensor]) -> None:
    for name in [name for name in weights if name.endswith("norm.weight")]:
        weights[name] = torch.ones_like(weights[name])


def wrong_share(model: MetaModel, training: Any, mistake: Any) -> float:
    """Share of the story's tokens, 0 to 1, that greedy decoding gets wrong after the mistake."""
    weights = dict(model.weights)
    mistake(weights)
    tokens = story_tokens(training("tokenizer"))
    return wrong_guesses(MetaModel(params=model.params, weights=weights), tokens, known=1) / len(tokens)


@pytest.mark.parametrize("mistake", [lose_rotary_order, swap_gate_and_up])
def test_a_wrong_conversion_talks_nonsense(model: MetaModel, training: Any, mistake: Any) -> None:
    """Although every guess here still sees the right story before it, which a wrong model in use would not."""
    assert wrong_share(model, training, mistake) > 0.4


def test_without_its_norms_it_tells_another_story(model: MetaModel, training: Any) -> None:
    """Still in good English, so no eye would notice: the limit of what reading can prove."""
    assert 0 < wrong_share(model, training, forget_norms) < 0.4


def test_meta_computes_what_was_trained(model: MetaModel, training: Any) -> None:
    """The training model and Meta's Transformer give the same logits in float32."""
    training_model = training("model")
    trained = training_model.Llama(training_model.Params(**model.params)).float()
    trained.load_state_dict({name: weight.float() for name, weight in model.weights.items()}, strict=True)
    tokens = story_tokens(training("tokenizer"))
    with torch.no_grad():
        logits = trained(torch.tensor([tokens]))[0]
    assert relative_difference(meta_logits(model, tokens), logits) < GATE


def test_the_feed_forward_width_needs_every_key(model: MetaModel, training: Any) -> None:
    params = training("model").Params(**model.params)
    assert model.weights["layers.0.feed_forward.w1.weight"].shape == (params.hidden_dim, params.dim)
    assert params.hidden_dim != 8 * params.dim // 3
    assert params.n_kv_heads < params.n_heads


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) <= 4_000_000


def test_norms_are_not_ones(model: MetaModel) -> None:
    norms = {name: weight for name, weight in model.weights.items() if name.endswith("norm.weight")}
    assert len(norms) == 2 * model.params["n_layers"] + 1
    for name, weight in norms.items():
        assert (weight.float() - 1).abs().mean() > 0.05, name


@pytest.mark.parametrize("shard", SHARDS)
def test_every_tensor_of_a_shard_is_whole_by_itself(shard: str) -> None:
    """bfloat16, contiguous, and alone in its storage: a view would have dragged the whole tensor into the file."""
    for name, weight in torch.load(EMBEDDED / shard, weights_only=True).items():
        assert weight.dtype == torch.bfloat16, name
        assert weight.is_contiguous(), name
        assert weight.untyped_storage().nbytes() == weight.nbytes, name


@pytest.mark.parametrize("shard", SHARDS)
def test_a_shard_is_named_inside_as_outside(shard: str) -> None:
    with zipfile.ZipFile(EMBEDDED / shard) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {Path(shard).stem}


def test_the_checklist_names_every_file() -> None:
    lines = (EMBEDDED / "checklist.chk").read_text().splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    found = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in EMBEDDED.iterdir()}
    del found["checklist.chk"]
    assert listed == found
    assert set(listed) == {*SHARDS, "params.json", "tokenizer.model"}


def test_the_tokenizer_reads_back_what_it_wrote(training: Any) -> None:
    encoding = read_encoding(training("tokenizer"))
    hard = ["", " ", "\n\n  x", "Don't!", "12345", "żółć 日本語 🦙", "\x00\xff", "<|begin_of_text|>"]
    for text in [*islice(training("stories").stories(11), 200), *hard]:
        assert encoding.decode(encoding.encode(text, disallowed_special=())) == text


def test_every_rank_is_one_token(training: Any) -> None:
    """Merging by rank reaches every token from its bytes, so a byte-pair library can read the same file."""
    ranks = training("tokenizer").read_ranks(EMBEDDED / "tokenizer.model")
    assert list(ranks.values()) == list(range(768))
    assert all(len(token) == 1 for token in list(ranks)[:256])
    for token, rank in ranks.items():
        assert merge_bytes(token, ranks) == [token], rank


def merge_bytes(text: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """Byte pair encoding written out: join the pair of lowest rank until no pair is a token."""
    parts = [text[place : place + 1] for place in range(len(text))]
    while True:
        merged = [left + right for left, right in pairwise(parts)]
        ranked = [(ranks[token], place) for place, token in enumerate(merged) if token in ranks]
        if not ranked:
            return parts
        place = min(ranked)[1]
        parts[place : place + 2] = [merged[place]]


def test_special_tokens_are_those_of_llama_3(training: Any) -> None:
    names = training("tokenizer").special_names()
    assert len(set(names)) == 256
    assert names[:2] == ["<|begin_of_text|>", "<|end_of_text|>"]
    assert names[5:11] == [
        "<|reserved_special_token_3|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|reserved_special_token_4|>",
        "<|eot_id|>",
        "<|reserved_special_token_5|>",
    ]
    assert names[-1] == "<|reserved_special_token_250|>"


def test_stories_are_the_same_for_the_same_seed(training: Any) -> None:
    """Also in another process, where sets and hashes have another order."""
    command = [sys.executable, "-m", "training.stories", "--count", "50", "--seed", "5"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    told = list(islice(training("stories").stories(5), 50))
    assert printed.split("\n\n")[:-1] == told
    assert told != list(islice(training("stories").stories(6), 50))


def test_params_are_metas() -> None:
    assert json.loads((EMBEDDED / "params.json").read_text()) == {
        "dim": 128,
        "n_layers": 6,
        "n_heads": 4,
        "n_kv_heads": 2,
        "vocab_size": 1024,
        "multiple_of": 64,
        "ffn_dim_multiplier": 1.3,
        "norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "use_scaled_rope": False,
    }
