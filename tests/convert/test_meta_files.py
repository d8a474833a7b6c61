"""What Meta's small files say of a model, and what they cannot: refused, or noted and kept elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sentencepiece import SentencePieceProcessor

from llama_convert.convert import Request, convert_checkpoint, plan_conversion
from llama_convert.convert.errors import CheckpointError, UsageError
from llama_convert.convert.formats import open_checkpoint
from llama_convert.convert.formats.meta import META
from llama_convert.convert.plan import make_plan
from llama_convert.convert.tokenizers.special_tokens import special_tokens
from llama_convert.verify import verify
from tests.checkpoints import CASES, hidden_dim, random_model, write_meta
from tests.meta_reference import install_fairscale_stub

BY_NAME = {case.name: case for case in CASES}
VERSIONS = ["1", "2", "code", "3", "3.1", "3.2", "3.3", "guard-1", "guard-2", "guard-3"]


def convert(source: Path, target: Path, to: str = "meta", version: str | None = None, **request: Any) -> Path:
    plan = plan_conversion(source, to=to, request=Request(**request), llama_version=version)
    return convert_checkpoint(plan, target).folder


def params(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "params.json").read_text())


@pytest.fixture
def hugging_face(meta_checkpoint, tmp_path: Path):
    """(version, **changes of config.json) -> a Hugging Face folder."""

    def made(version: str, **changes: Any) -> Path:
        folder = convert(meta_checkpoint(BY_NAME[version]), tmp_path / "hf", "hf", version)
        path = folder / "config.json"
        config = json.loads(path.read_text()) | changes
        if "rope_scaling" in changes:
            config["rope_parameters"] = config["rope_scaling"] | {"rope_theta": config["rope_theta"]}
        path.write_text(json.dumps(config))
        return folder

    return made


@pytest.mark.parametrize("version", VERSIONS)
def test_params_are_the_models(version: str, meta_checkpoint, tmp_path: Path) -> None:
    """The keys of Meta's own file; the same sizes through Meta's code and formula. The vocabulary is never -1."""
    case = BY_NAME[version]
    model, found = case.model(), params(convert(meta_checkpoint(case), tmp_path / "out", version=version))
    plain = {"ffn_dim_multiplier"} if version in ("1", "2", "guard-1") else set()
    assert found.keys() - plain == model.params.keys() - plain
    same = found.keys() - {"vocab_size", "multiple_of", "ffn_dim_multiplier"}
    assert {key: found[key] for key in same} == {key: model.params[key] for key in same}
    assert found["vocab_size"] == model.vocab
    assert hidden_dim(found) == hidden_dim(model.params)


@pytest.mark.parametrize("version", VERSIONS)
def test_params_make_metas_model(version: str, meta_checkpoint, tmp_path: Path) -> None:
    """All keys are ones that ModelArgs has, and the modules have the shapes of the weights."""
    install_fairscale_stub()
    from llama_models.llama3.args import ModelArgs
    from llama_models.llama3.model import Transformer

    case = BY_NAME[version]
    folder = convert(meta_checkpoint(case), tmp_path / "out", version=version)
    args = ModelArgs(**params(folder), max_batch_size=1, max_seq_len=8)
    assert all(hasattr(args, key) for key in params(folder))
    with torch.device("meta"):
        model = Transformer(args)
    weights = torch.load(folder / "consolidated.00.pth")
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        name: tensor.shape for name, tensor in weights.items()
    }
    if case.model().tied:
        assert weights["output.weight"].data_ptr() == weights["tok_embeddings.weight"].data_ptr()


def test_the_order_of_names_is_metas(meta_checkpoint, tmp_path: Path) -> None:
    """As listed of Llama 2 70B's files and of Llama 3 8B's."""
    first = list(torch.load(convert(meta_checkpoint(BY_NAME["2"]), tmp_path / "2") / "consolidated.00.pth"))
    assert first[:3] == ["tok_embeddings.weight", "norm.weight", "output.weight"]
    modules = ["wq", "wk", "wv", "wo", "w1", "w2", "w3", "attention_norm", "ffn_norm"]
    assert [name.split(".")[-2] for name in first[3:]] == modules * 2
    later = list(torch.load(convert(meta_checkpoint(BY_NAME["3"]), tmp_path / "3") / "consolidated.00.pth"))
    modules = ["wq", "wk", "wv", "wo", "w1", "w3", "w2", "attention_norm", "ffn_norm"]
    assert [name.split(".")[-2] for name in later] == ["tok_embeddings", *modules * 2, "norm", "output"]


@pytest.mark.parametrize(
    ("version", "axis", "shape"), [("2", 1, (512, 96)), ("code", 1, (512, 96)), ("3", 0, (384, 192))]
)
def test_the_embedding_is_cut_as_the_versions_layers_are(
    version: str, axis: int, shape: tuple[int, int], meta_checkpoint, tmp_path: Path
) -> None:
    folder = convert(meta_checkpoint(BY_NAME[version]), tmp_path / "out", version=version, shards=2)
    shards = [torch.load(folder / f"consolidated.0{rank}.pth")["tok_embeddings.weight"] for rank in (0, 1)]
    assert shards[1].shape == shape
    assert torch.equal(torch.cat(shards, axis), BY_NAME[version].model().weights["tok_embeddings.weight"])


@pytest.mark.parametrize(("version", "shared"), [("3.2", True), ("2", False)])
def test_a_tied_head_is_stored_once_where_both_are_cut_alike(version: str, shared: bool, tmp_path: Path) -> None:
    model = random_model(version, tied=True)
    write_meta(model, tmp_path / "in", tokenizer=model.tokenizer)
    folder = convert(tmp_path / "in", tmp_path / "out", version=version, shards=2)
    weights = torch.load(folder / "consolidated.01.pth")
    assert (weights["output.weight"].data_ptr() == weights["tok_embeddings.weight"].data_ptr()) is shared
    assert open_checkpoint(folder).config.tied


SCALING = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "factor of no version": (
        {"rope_scaling": SCALING | {"factor": 16.0, "original_max_position_embeddings": 8192}},
        "RoPE scaling with factor 16 ",
    ),
    "other frequencies": (
        {"rope_scaling": SCALING | {"factor": 8.0, "high_freq_factor": 8.0, "original_max_position_embeddings": 8192}},
        "RoPE scaling with factor 8 (1 to 8",
    ),
    "other original context": (
        {"rope_scaling": SCALING | {"factor": 8.0, "original_max_position_embeddings": 4096}},
        "RoPE scaling with factor 8 (1 to 4, 4,096 positions)",
    ),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=list(REFUSED))
def test_what_params_cannot_say_is_refused(changes: dict[str, Any], words: str, hugging_face, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written in Meta's format") as error:
        convert(hugging_face("3.1", **changes), tmp_path / "out")
    (problem,) = error.value.problems
    assert problem.startswith(words)


def test_a_head_size_of_its_own_is_refused(hugging_face) -> None:
    source = open_checkpoint(hugging_face("3.1"))
    with pytest.raises(UsageError) as error:
        make_plan(replace(source, config=replace(source.config, head_dim=32)), META, Request())
    assert error.value.problems == ("head_dim is 32, Meta's is dim / n_heads = 16",)


def test_rows_without_a_piece_get_names_that_no_text_gives(hugging_face, tmp_path: Path) -> None:
    source = open_checkpoint(hugging_face("2"))
    plan = make_plan(replace(source, config=replace(source.config, vocab_size=520)), META, Request())
    assert [note for note in plan.notes if note.startswith("8 rows of the embedding have no token")]
    (model,) = (file for file in plan.side_files if file.name == "tokenizer.model")
    model.write(tmp_path / "tokenizer.model")
    found = SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert found.get_piece_size() == 520
    assert all(found.is_control(number) for number in range(512, 520))
    assert max(found.encode(found.id_to_piece(512))) < 512


def test_sentencepiece_with_scaled_rope_is_refused(hugging_face, tmp_path: Path) -> None:
    """Meta's format has no such model, and our own reader would not take it."""
    scaling = SCALING | {"factor": 8.0, "original_max_position_embeddings": 8192}
    with pytest.raises(UsageError) as error:
        convert(hugging_face("2", rope_scaling=scaling), tmp_path / "out")
    (problem,) = error.value.problems
    assert problem.startswith("a SentencePiece tokenizer with scaled RoPE")


def test_everything_that_does_not_fit_is_said_at_once(hugging_face, tmp_path: Path) -> None:
    scaling = REFUSED["factor of no version"][0]
    with pytest.raises(UsageError) as error:
        convert(hugging_face("3.1", **scaling), tmp_path / "out", shards=5)
    assert len(error.value.problems) == 1 + 4


def test_the_number_of_shards_that_are_possible_is_said(meta_checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        convert(meta_checkpoint(BY_NAME["3.1"]), tmp_path / "out", shards=8)
    assert error.value.problems == ("--shards 8: 12 heads cannot be dealt out evenly",)
    assert error.value.advice == "Possible are 1, 2, 4 shards."


# ---- the version that no file of Meta's holds ----


def test_the_factor_of_a_size_of_nobodys_is_kept_by_the_certificate(meta_checkpoint, tmp_path: Path) -> None:
    source = meta_checkpoint(BY_NAME["3.2-untied"])
    plan = plan_conversion(source, to="meta", llama_version="3.2")
    assert any("cannot say RoPE factor 32" in note and "--llama-version 3.2" in note for note in plan.notes)
    folder = convert_checkpoint(plan, tmp_path / "out").folder
    scaling = open_checkpoint(folder).config.rope_scaling
    assert scaling is not None
    assert scaling.factor == 32
    config = json.loads((convert(folder, tmp_path / "hf", "hf") / "config.json").read_text())
    assert config["rope_scaling"]["factor"] == 32
    (folder / "conversion.json").unlink()
    assert open_checkpoint(folder).version.name == "3.1"


def test_the_users_word_counts_for_more_than_the_certificate(meta_checkpoint, tmp_path: Path) -> None:
    folder = convert(meta_checkpoint(BY_NAME["3.1"]), tmp_path / "out", version="3.3")
    assert open_checkpoint(folder).version.name == "3.3"
    assert open_checkpoint(folder, "3.1").version.name == "3.1"
    path = folder / "conversion.json"
    path.write_text(path.read_text().replace('"llama_version": "3.3"', '"llama_version": "2"'))
    assert open_checkpoint(folder).version.name == "3.1"


def test_another_context_is_noted(hugging_face) -> None:
    plan = plan_conversion(hugging_face("3.1", max_position_embeddings=32768), to="meta")
    assert [note for note in plan.notes if "131,072 positions, not 32,768" in note]


def test_a_plain_model_needs_no_note(hugging_face) -> None:
    assert plan_conversion(hugging_face("3.1"), to="meta").notes == ()


# ---- tokenizers ----

NAMES = (*special_tokens("3.1")[:-1], "<|llama|>")


def test_the_tokenizer_file_is_metas_again(meta_checkpoint, tmp_path: Path) -> None:
    """Of tiktoken ranks made from tokenizer.json alone, byte for byte; names of the version need no file."""
    source = meta_checkpoint(BY_NAME["3.1"])
    hf = convert(source, tmp_path / "hf", "hf")
    for path in (hf / "original").iterdir():
        path.unlink()
    out = convert(hf, tmp_path / "out")
    assert (out / "tokenizer.model").read_bytes() == (source / "tokenizer.model").read_bytes()
    assert not (out / "special_tokens.json").exists()


def test_names_that_are_not_the_versions_are_kept_beside(meta_checkpoint, tmp_path: Path) -> None:
    """By way of Hugging Face and of Meta's format again."""
    hf = convert(meta_checkpoint(BY_NAME["3.1"]), tmp_path / "hf", "hf", special_tokens=NAMES)
    plan = plan_conversion(hf, to="meta")
    assert any(note.startswith("special_tokens.json holds") for note in plan.notes)
    out = convert_checkpoint(plan, tmp_path / "out").folder
    assert tuple(json.loads((out / "special_tokens.json").read_text())) == NAMES
    assert verify(hf, out, ["tokenizer"]).ok
    again = convert(out, tmp_path / "again")
    assert (again / "special_tokens.json").read_bytes() == (out / "special_tokens.json").read_bytes()
    back = convert(again, tmp_path / "back", "hf")
    assert (back / "tokenizer.json").read_bytes() == (hf / "tokenizer.json").read_bytes()


def test_rows_without_a_token_get_names(meta_checkpoint, tmp_path: Path) -> None:
    """A vocabulary that was made larger than its tokenizer: Meta's files name every row."""
    model = random_model("3", vocab=768 + 8)
    write_meta(model, tmp_path / "in", tokenizer=model.tokenizer)
    tokens = meta_checkpoint(BY_NAME["3"]) / "tokenizer.model"
    (tmp_path / "in" / "tokenizer.model").write_bytes(tokens.read_bytes())
    (tmp_path / "in" / "checklist.chk").unlink()
    with pytest.raises(CheckpointError, match="768 tokens, the embedding has 776 rows"):
        convert(tmp_path / "in", tmp_path / "out")
    names = [*special_tokens("3"), *(f"<|extra_{number}|>" for number in range(8))]
    (tmp_path / "in" / "special_tokens.json").write_text(json.dumps(names))
    hf = convert(tmp_path / "in", tmp_path / "hf", "hf")
    _forget_tokens(hf / "tokenizer.json", 768)
    written = json.loads((convert(hf, tmp_path / "out") / "special_tokens.json").read_text())
    assert written[:256] == list(special_tokens("3"))
    assert written[256:] == [f"<|reserved_special_token_{number}|>" for number in range(251, 259)]


def _forget_tokens(path: Path, first: int) -> None:
    tokenizer = json.loads(path.read_text())
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["id"] < first]
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {text: number for text, number in vocabulary.items() if number < first}
    path.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize("content", ["{}", "[1, 2]", '["a", "a"]', '["", "a"]', "no JSON"])
def test_damaged_names_are_refused(content: str, meta_checkpoint, tmp_path: Path) -> None:
    out = convert(meta_checkpoint(BY_NAME["3.1"]), tmp_path / "out")
    (out / "special_tokens.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"special_tokens\.json"):
        convert(out, tmp_path / "hf", "hf")
