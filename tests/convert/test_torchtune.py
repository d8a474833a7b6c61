"""torchtune's format, held against its names and builders written out by hand from torchtune 0.6.1's sources."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from llama_convert.convert import open_checkpoint, plan_conversion
from llama_convert.convert.errors import CheckpointError, UsageError
from tests.checkpoints import CASES, Case, MetaModel, hidden_dim, random_model, write_meta
from tests.convert.support import context_of, converted, equal, halves

CASE = next(case for case in CASES if case.name == "3.1")
CONFIG = "torchtune_config.json"


def state_dict(model: MetaModel) -> dict[str, Tensor]:
    """What torchtune's TransformerDecoder holds; its rows of q and k are in Meta's order."""
    weights = model.weights
    found = {"tok_embeddings.weight": weights["tok_embeddings.weight"], "norm.scale": weights["norm.weight"]}
    if not model.tied:
        found["output.weight"] = weights["output.weight"]
    for i in range(model.params["n_layers"]):
        old, new = f"layers.{i}.attention", f"layers.{i}.attn"
        found |= {
            f"{new}.q_proj.weight": weights[f"{old}.wq.weight"],
            f"{new}.k_proj.weight": weights[f"{old}.wk.weight"],
            f"{new}.v_proj.weight": weights[f"{old}.wv.weight"],
            f"{new}.output_proj.weight": weights[f"{old}.wo.weight"],
            f"layers.{i}.sa_norm.scale": weights[f"layers.{i}.attention_norm.weight"],
            f"layers.{i}.mlp_norm.scale": weights[f"layers.{i}.ffn_norm.weight"],
            f"layers.{i}.mlp.w1.weight": weights[f"layers.{i}.feed_forward.w1.weight"],
            f"layers.{i}.mlp.w2.weight": weights[f"layers.{i}.feed_forward.w2.weight"],
            f"layers.{i}.mlp.w3.weight": weights[f"layers.{i}.feed_forward.w3.weight"],
        }
    return found


def arguments(case: Case) -> dict[str, object]:
    """Of the builder that makes such a model."""
    model = case.model()
    scaled = bool(model.params.get("use_scaled_rope"))
    named = "llama2.llama2" if model.tokenizer == "sentencepiece" else "llama3.llama3"
    named = "llama3_2.llama3_2" if model.tied else "llama3_1.llama3_1" if scaled else named
    return {
        "_component_": f"torchtune.models.{named}",
        "vocab_size": model.vocab,
        "num_layers": model.params["n_layers"],
        "num_heads": model.heads,
        "num_kv_heads": model.kv_heads,
        "embed_dim": model.params["dim"],
        "max_seq_len": context_of(case),
        "intermediate_dim": hidden_dim(model.params),
        "rope_base": model.params.get("rope_theta", 10000.0),
        "norm_eps": model.params["norm_eps"],
        **({"scale_factor": model.rope_factor} if scaled else {}),
        **({"tie_word_embeddings": True} if model.tied else {}),
    }


@pytest.fixture(scope="module")
def folder(meta_checkpoint, tmp_path_factory) -> Path:
    return converted(meta_checkpoint(CASE), tmp_path_factory.mktemp("torchtune") / "out", "torchtune", CASE.version)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A folder of torchtune's that a test may spoil."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def change(path: Path, **values: object) -> None:
    found = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_written_as_torchtune_has_it_and_read_back(case: Case, meta_checkpoint, tmp_path: Path) -> None:
    source = meta_checkpoint(case)
    folder = converted(source, tmp_path / "tune", "torchtune", case.version)
    found = torch.load(folder / "torchtune.pth", weights_only=True)
    assert equal(found, state_dict(case.model()))
    assert json.loads((folder / CONFIG).read_text()) == arguments(case)
    assert (folder / "tokenizer.model").read_bytes() == (source / "tokenizer.model").read_bytes()
    back, direct = (
        converted(start, tmp_path / name, "hf", case.version) for start, name in ((folder, "back"), (source, "direct"))
    )
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (back / name).read_bytes() == (direct / name).read_bytes(), name


def test_rows_in_the_other_order_would_be_seen(folder: Path) -> None:
    """Negative control of the comparison above."""
    model = CASE.model()
    wanted = state_dict(model)
    name = "layers.1.attn.q_proj.weight"
    assert not equal(torch.load(folder / "torchtune.pth"), wanted | {name: halves(wanted[name], model.heads)})


def test_from_hugging_face_the_rows_go_back(folder: Path, meta_checkpoint, tmp_path: Path) -> None:
    there = converted(meta_checkpoint(CASE), tmp_path / "hf", "hf", CASE.version)
    again = converted(there, tmp_path / "tune", "torchtune")
    for name in ("torchtune.pth", CONFIG, "tokenizer.model"):
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "model.pth"])
def test_what_torchtune_itself_saved_is_read(name: str, copy: Path, tmp_path: Path) -> None:
    """Any name, in a folder or given itself."""
    (copy / "torchtune.pth").unlink()
    save = save_file if name.endswith("safetensors") else torch.save
    save({key: value.clone() for key, value in state_dict(CASE.model()).items()}, copy / name)
    for path in (copy, copy / name):
        opened = open_checkpoint(path)
        assert (opened.format.name, opened.config.kv_heads) == ("torchtune", 4)


def test_without_the_config_the_sizes_can_be_said(copy: Path, tmp_path: Path) -> None:
    said = {name: str(value) for name, value in arguments(CASE).items() if name != "_component_"}
    wanted = open_checkpoint(copy).config
    (copy / CONFIG).unlink()
    assert open_checkpoint(copy, assume=said).config == wanted
    with pytest.raises(CheckpointError, match=r"nothing else says num_heads\n.*--assume num_heads=VALUE"):
        open_checkpoint(copy, assume={name: value for name, value in said.items() if name != "num_heads"})
    with pytest.raises(CheckpointError, match="num_heads is 'many', wanted a whole number"):
        open_checkpoint(copy, assume=said | {"num_heads": "many"})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_heads": None}, "lacks num_heads"),
        ({"scale_factor": None}, "lacks scale_factor"),
        ({"_component_": "torchtune.models.llama3_2.llama3_2"}, "lacks tie_word_embeddings"),
        ({"_component_": "torchtune.models.gemma.gemma"}, "wanted a builder of Llamas"),
        ({"num_heads": 7}, "embed_dim 192 does not divide into 7 heads"),
        ({"num_kv_heads": 5}, "num_heads 12 is no multiple of num_kv_heads 5"),
        ({"num_kv_heads": 6}, "k_proj.weight: the file has (64, 192), torchtune_config.json says (96, 192)"),
        ({"num_layers": 3}, "missing  layers.2.attn.q_proj.weight"),
        ({"num_layers": 1}, "unknown  layers.1.attn.q_proj.weight"),
        ({"embed_dim": 0}, "embed_dim must be at least 1"),
        ({"norm_eps": "1e-5"}, "norm_eps is '1e-5', wanted a number"),
        ({"tie_word_embeddings": True}, "unknown  output.weight"),
        ({"tie_word_embeddings": "no"}, "wanted true or false"),
        ({"num_layers": 10**9}, "more than any model has"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(values: dict, words: str, copy: Path) -> None:
    change(copy / CONFIG, **values)
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(copy)
    assert words in str(error.value)
    assert "\n" not in error.value.summary


def test_files_that_are_damaged_or_too_many(copy: Path) -> None:
    weights = copy / "torchtune.pth"
    weights.with_name("other.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="holds 2 weight files"):
        open_checkpoint(copy)
    weights.with_name("other.pt").unlink()
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"torchtune\.pth: truncated"):
        open_checkpoint(copy)
    weights.unlink()
    with pytest.raises(CheckpointError, match="holds no weight files"):
        open_checkpoint(copy)


def test_a_scaling_that_no_builder_makes_is_refused(meta_checkpoint, tmp_path: Path) -> None:
    folder = converted(meta_checkpoint(CASE), tmp_path / "hf", "hf", CASE.version)
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["high_freq_factor"] = 8.0
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"no builder of torchtune's makes this model\n.*it knows only 1, 4 and 8192"):
        plan_conversion(folder, to="torchtune")


def test_a_tied_head_without_scaling_is_stretched_by_nothing(tmp_path: Path) -> None:
    """Only the builder of Llama 3.2 ties, and it always scales."""
    model = random_model("3", tied=True)
    source = write_meta(model, tmp_path / "in", tokenizer=model.tokenizer)
    folder = converted(source, tmp_path / "out", "torchtune", "3")
    config = json.loads((folder / CONFIG).read_text())
    assert (config["_component_"], config["scale_factor"]) == ("torchtune.models.llama3_2.llama3_2", 1.0)
    assert open_checkpoint(folder).config == open_checkpoint(source, "3").config
