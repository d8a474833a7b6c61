"""Which checkpoint of a repository is taken, on listings like those of published ones."""

from __future__ import annotations

import pytest

from llama_convert.convert.errors import UsageError
from llama_convert.hub.layouts import WHATS, choices, choose, left_alone
from llama_convert.hub.repository import RemoteEntry, RepositoryName, Snapshot

HF_SMALL = [
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
]
SHARDS = [f"model-{number:05}-of-00004.safetensors" for number in range(1, 5)]
ORIGINAL = ["original/consolidated.00.pth", "original/params.json", "original/tokenizer.model"]
MP8 = [f"original/mp8/consolidated.{number:02}.pth" for number in range(8)]
MP16 = [f"original/mp16/consolidated.{number:02}.pth" for number in range(16)]

LISTINGS = {
    "Llama-3.1-8B": [
        *(".gitattributes", "LICENSE", "README.md", "USE_POLICY.md"),
        *(*HF_SMALL, *SHARDS, "model.safetensors.index.json", *ORIGINAL),
    ],
    "Llama-2-7b": [
        *("LICENSE.txt", "README.md", "USE_POLICY.md", "checklist.chk", "consolidated.00.pth", "params.json"),
        *("tokenizer.model", "tokenizer_checklist.chk"),
    ],
    "Llama-2-7b-hf": [
        *("LICENSE.txt", *HF_SMALL, "tokenizer.model", "model-00001-of-00002.safetensors"),
        *("model-00002-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model-00001-of-00002.bin"),
        *("pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"),
    ],
    "only-bin": ["config.json", "pytorch_model.bin", "tokenizer.model", "tf_model.h5"],
    "Llama-3.1-405B": [
        *(*HF_SMALL, "model-00001-of-00191.safetensors", "model.safetensors.index.json"),
        *(*MP8, "original/mp8/params.json", *MP16, "original/mp16/params.json", "original/mp16/tokenizer.model"),
        "original/tokenizer.model",
    ],
    "Llama-3.1-405B-FP8-Original": [
        *(f"consolidated.{number:02}.pth" for number in range(8)),
        *(f"fp8_scales_{number}.pt" for number in range(8)),
        *("params.json", "tokenizer.model"),
    ],
    "GGUF": [
        *("README.md", "config.json", "Llama-3.2-1B-Instruct-Q4_0.gguf", "Llama-3.2-1B-Instruct-Q4_K_M.gguf"),
        *("Llama-3.2-1B-Instruct-UD-IQ2_XXS.gguf", "mmproj-F16.gguf", "imatrix.gguf", "F16/Llama-3.2-1B-F16.gguf"),
        *(f"BF16/Llama-3.2-1B-BF16-{number:05}-of-00002.gguf" for number in (1, 2)),
    ],
    "llama-2.GGUF": ["llama-2-7b.Q4_0.gguf"],
    "unnamed.GGUF": ["a.gguf", "b.gguf", "c-q8_0.gguf", "d-q8_0.gguf"],
    "adapter": ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md"],
    "weights without params": ["consolidated.00.pth", "README.md"],
}


def snapshot(name: str) -> Snapshot:
    entries = tuple(
        RemoteEntry(path=path, size=len(path), sha256=None, git_sha1=f"{number:040x}")
        for number, path in enumerate(LISTINGS[name])
    )
    asked = RepositoryName(repository=f"herd/{name}")
    return Snapshot(
        asked=asked, repository=asked.repository, commit="0" * 40, entries=entries, gated=False, licence=None
    )


ALL_SHARDS = ["model.safetensors.index.json", *SHARDS]
CHOSEN = {
    ("Llama-3.1-8B", None): ("hf", "", [*ALL_SHARDS, *HF_SMALL, *ORIGINAL[1:], "LICENSE", "USE_POLICY.md"]),
    ("Llama-3.1-8B", "original"): ("original", "original", [*ORIGINAL, "LICENSE", "USE_POLICY.md"]),
    ("Llama-3.1-8B", "tokenizer"): ("tokenizer", "", [*HF_SMALL[2:], "original/tokenizer.model"]),
    ("Llama-3.1-8B", "config"): ("config", "", ["config.json", "generation_config.json", "original/params.json"]),
    ("Llama-2-7b", None): ("original", "", [path for path in LISTINGS["Llama-2-7b"] if path != "README.md"]),
    ("Llama-2-7b", "config"): ("config", "", ["params.json"]),
    ("Llama-2-7b-hf", None): ("hf", "", [path for path in LISTINGS["Llama-2-7b-hf"] if "pytorch" not in path]),
    ("only-bin", None): ("hf", "", ["config.json", "pytorch_model.bin", "tokenizer.model"]),
    ("Llama-3.1-405B", "original:mp8"): (
        "original:mp8",
        "original/mp8",
        [*MP8, "original/mp8/params.json", "original/tokenizer.model"],
    ),
    ("Llama-3.1-405B", "original:original/mp16"): (
        "original:mp16",
        "original/mp16",
        [*MP16, "original/mp16/params.json", "original/mp16/tokenizer.model"],
    ),
    ("Llama-3.1-405B-FP8-Original", None): ("original", "", LISTINGS["Llama-3.1-405B-FP8-Original"]),
    ("GGUF", "gguf:q4_0"): ("gguf:Q4_0", LISTINGS["GGUF"][2], [LISTINGS["GGUF"][2]]),
    ("GGUF", "gguf:Llama-3.2-1B-Instruct-Q4_K_M.gguf"): ("gguf:Q4_K_M", LISTINGS["GGUF"][3], [LISTINGS["GGUF"][3]]),
    ("GGUF", "gguf:UD-IQ2_XXS"): ("gguf:UD-IQ2_XXS", LISTINGS["GGUF"][4], [LISTINGS["GGUF"][4]]),
    ("GGUF", "gguf:BF16"): ("gguf:BF16", LISTINGS["GGUF"][8], LISTINGS["GGUF"][8:]),
    ("GGUF", "gguf:F16/Llama-3.2-1B-F16.gguf"): ("gguf:F16", LISTINGS["GGUF"][7], [LISTINGS["GGUF"][7]]),
    ("llama-2.GGUF", None): ("gguf:Q4_0", "llama-2-7b.Q4_0.gguf", ["llama-2-7b.Q4_0.gguf"]),
    ("unnamed.GGUF", "gguf:a"): ("gguf:a", "a.gguf", ["a.gguf"]),
    ("unnamed.GGUF", "gguf:d-q8_0"): ("gguf:d-q8_0", "d-q8_0.gguf", ["d-q8_0.gguf"]),
    ("adapter", "tokenizer"): ("tokenizer", "", ["tokenizer.json"]),
}


@pytest.mark.parametrize(("listing", "what"), CHOSEN, ids=str)
def test_what_is_taken(listing: str, what: str | None) -> None:
    name, place, paths = CHOSEN[listing, what]
    found = choose(snapshot(listing), what)
    assert (str(found), found.place) == (name, place)
    assert sorted(entry.path for entry in found.entries) == sorted(paths)
    left = [entry.path for entry in left_alone(snapshot(listing), found)]
    assert sorted([*left, *paths]) == sorted(LISTINGS[listing]), "every file is taken or left, none both"


@pytest.mark.parametrize("listing", LISTINGS)
def test_one_weight_format_each(listing: str) -> None:
    """No file of weights is in two choices, and what a choice is called leads to it again."""
    found = choices(snapshot(listing))
    weights = [entry.path for choice in found for entry in choice.weights]
    assert len(weights) == len(set(weights))
    for choice in found:
        assert len({path.rpartition(".")[2] for path in (entry.path for entry in choice.weights)} - {"json", "pt"}) <= 1
        if choice.name:
            assert choose(snapshot(listing), str(choice)) == choice


REFUSED = {
    ("Llama-3.1-405B", "original"): ("original could be any of 2", "--what original:mp16: 18 files"),
    ("GGUF", None): ("gguf could be any of 5", "--what gguf:Q4_0: 1 file"),
    ("GGUF", "gguf"): ("gguf could be any of 5", "--what gguf:BF16: 2 files"),
    ("GGUF", "gguf:Q5_0"): ("no gguf:Q5_0 there", "--what gguf:Q4_0: 1 file"),
    ("GGUF", "hf"): ("no hf in its 10 files", "--what gguf:Q4_0: 1 file"),
    ("GGUF", "gguf:mmproj-F16"): ("no gguf:mmproj-F16 there", "--what gguf:Q4_0"),
    ("unnamed.GGUF", "gguf:q8_0"): ("gguf:q8_0 could be any of 2", "--what gguf:c-q8_0"),
    ("adapter", None): ("no hf or original or gguf in its 4 files", "--what tokenizer: 1 file"),
    ("weights without params", None): ("no hf or original or gguf in its 2 files", "consolidated.00.pth, 19 bytes"),
    ("GGUF", "weights"): ("--what weights: there is no such", "Known are original, hf, gguf, tokenizer, config"),
}


@pytest.mark.parametrize(("listing", "what"), REFUSED, ids=str)
def test_what_is_refused(listing: str, what: str | None) -> None:
    summary, listed = REFUSED[listing, what]
    with pytest.raises(UsageError) as found:
        choose(snapshot(listing), what)
    assert summary in found.value.summary
    assert listed in str(found.value)
    assert found.value.advice


def test_a_target_may_suit_another_kind() -> None:
    assert choose(snapshot("Llama-3.1-8B"), likeliest=("original", "hf")).what == "original"
    assert choose(snapshot("only-bin"), likeliest=("original", "hf")).what == "hf"
    assert WHATS == ("original", "hf", "gguf", "tokenizer", "config")
