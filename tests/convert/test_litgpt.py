"""litgpt's format, held against its names, rows and config written out by hand from litgpt 0.5.9's sources."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from llama_convert.convert import open_checkpoint, plan_conversion
from llama_convert.convert.errors import CheckpointError
from tests.checkpoints import CASES, Case, MetaModel, hidden_dim
from tests.convert.support import context_of, converted, equal, halves

CASE = next(case for case in CASES if case.name == "3.1")
CONFIG, WEIGHTS = "model_config.yaml", "lit_model.pth"


def state_dict(model: MetaModel, *, grouped: bool = False) -> dict[str, Tensor]:
    """What litgpt's GPT holds; grouped: as its versions with `attn.attn` did."""
    weights = model.weights
    found = {
        "transformer.wte.weight": weights["tok_embeddings.weight"],
        "transformer.ln_f.weight": weights["norm.weight"],
        "lm_head.weight": weights["output.weight"],
    }
    for i in range(model.params["n_layers"]):
        meta, lit = f"layers.{i}", f"transformer.h.{i}"
        query = halves(weights[f"{meta}.attention.wq.weight"], model.heads)
        key = halves(weights[f"{meta}.attention.wk.weight"], model.kv_heads)
        value = weights[f"{meta}.attention.wv.weight"]
        if grouped:
            chunks = zip(*(part.chunk(model.kv_heads) for part in (query, key, value)), strict=True)
            found[f"{lit}.attn.attn.weight"] = torch.cat([part for chunk in chunks for part in chunk])
        else:
            found[f"{lit}.attn.qkv.weight"] = torch.cat([query, key, value])
        found |= {
            f"{lit}.attn.proj.weight": weights[f"{meta}.attention.wo.weight"],
            f"{lit}.norm_1.weight": weights[f"{meta}.attention_norm.weight"],
            f"{lit}.norm_2.weight": weights[f"{meta}.ffn_norm.weight"],
            f"{lit}.mlp.fc_1.weight": weights[f"{meta}.feed_forward.w1.weight"],
            f"{lit}.mlp.fc_2.weight": weights[f"{meta}.feed_forward.w3.weight"],
            f"{lit}.mlp.proj.weight": weights[f"{meta}.feed_forward.w2.weight"],
        }
    return found


def config(case: Case) -> dict[str, Any]:
    """All fields of litgpt 0.5.9's Config: those of its own Llamas, with the sizes of this one."""
    model = case.model()
    names = {"2": "Llama-2", "code": "CodeLlama"}
    adjustments = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_seq_len": 8192}
    return {
        "attention_logit_softcapping": None,
        "attention_scores_scalar": None,
        "attn_bias": False,
        "bias": False,
        "block_size": context_of(case),
        "final_logit_softcapping": None,
        "gelu_approximate": "none",
        "head_size": model.head_dim,
        "hf_config": {},
        "intermediate_size": hidden_dim(model.params),
        "lm_head_bias": False,
        "mlp_class_name": "LLaMAMLP",
        "moe_intermediate_size": None,
        "n_embd": model.params["dim"],
        "n_expert": 0,
        "n_expert_per_token": 0,
        "n_head": model.heads,
        "n_layer": model.params["n_layers"],
        "n_query_groups": model.kv_heads,
        "name": names.get(case.version, f"Llama-{case.version}"),
        "norm_1": True,
        "norm_2": True,
        "norm_class_name": "RMSNorm",
        "norm_eps": model.params["norm_eps"],
        "norm_qk": False,
        "norm_qk_type": "default",
        "padded_vocab_size": model.vocab,
        "padding_multiple": 1,
        "parallel_residual": False,
        "post_attention_norm": False,
        "post_mlp_norm": False,
        "rope_adjustments": {"factor": model.rope_factor, **adjustments}
        if model.params.get("use_scaled_rope")
        else None,
        "rope_base": int(model.params.get("rope_theta", 10000)),
        "rope_condense_ratio": 1,
        "rope_indices": None,
        "rope_local_base_freq": None,
        "rotary_percentage": 1.0,
        "scale_embeddings": False,
        "shared_attention_norm": False,
        "sliding_window_indices": None,
        "sliding_window_size": None,
        "vocab_size": model.vocab,
    }


@pytest.fixture(scope="module")
def folder(meta_checkpoint, tmp_path_factory) -> Path:
    return converted(meta_checkpoint(CASE), tmp_path_factory.mktemp("litgpt") / "out", "litgpt", CASE.version)


@pytest.fixture(scope="module")
def direct(meta_checkpoint, tmp_path_factory) -> Path:
    """The same model as a Hugging Face folder, on the straight way."""
    return converted(meta_checkpoint(CASE), tmp_path_factory.mktemp("direct") / "out", "hf", CASE.version)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A folder of litgpt's that a test may spoil."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_written_as_litgpt_has_it_and_read_back(case: Case, meta_checkpoint, tmp_path: Path) -> None:
    source = meta_checkpoint(case)
    folder = converted(source, tmp_path / "lit", "litgpt", case.version)
    assert equal(torch.load(folder / WEIGHTS, weights_only=True), state_dict(case.model()))
    text = (folder / CONFIG).read_text()
    assert yaml.safe_load(text) == config(case)
    assert type(yaml.safe_load(text)["norm_eps"]) is float  # YAML takes 1e-05 for a text
    assert text == yaml.dump(config(case))  # as litgpt would write it
    back, direct = (
        converted(start, tmp_path / name, "hf", case.version) for start, name in ((folder, "back"), (source, "direct"))
    )
    for path in direct.glob("*.*"):
        if path.name != "conversion.json":
            assert (back / path.name).read_bytes() == path.read_bytes(), path.name


def test_rows_in_the_other_order_would_be_seen(folder: Path) -> None:
    """Negative control of the comparison above: rows of q as Meta has them, and rows grouped by kv head."""
    model, found = CASE.model(), torch.load(folder / WEIGHTS)
    name, old = "transformer.h.0.attn.qkv.weight", "transformer.h.0.attn.attn.weight"
    wanted = state_dict(model)
    left = torch.cat([model.weights["layers.0.attention.wq.weight"], wanted[name][model.params["dim"] :]])
    assert not equal(found, wanted | {name: left})
    assert not equal(found, wanted | {name: state_dict(model, grouped=True)[old]})


def test_from_hugging_face(folder: Path, direct: Path, tmp_path: Path) -> None:
    """No row changes its place: q, k and v are put behind one another, as they are."""
    plan = plan_conversion(direct, to="litgpt")
    assert set(plan.work()) == {"copied", "joined by rows"}
    again = converted(direct, tmp_path / "again", "litgpt")
    for path in folder.glob("*.*"):
        if path.name != "conversion.json":
            assert (again / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_former_layout_is_read(direct: Path, copy: Path, tmp_path: Path) -> None:
    torch.save(state_dict(CASE.model(), grouped=True), copy / WEIGHTS)
    back = converted(copy, tmp_path / "back", "hf")
    assert (back / "model.safetensors").read_bytes() == (direct / "model.safetensors").read_bytes()
    assert "transformer.h.1.attn.attn.weight" in (back / "conversion.json").read_text()


def test_the_former_layout_taken_for_the_present_one_would_be_seen(direct: Path, copy: Path, tmp_path: Path) -> None:
    """Negative control: the same rows under the present name."""
    old = state_dict(CASE.model(), grouped=True)
    torch.save({name.replace("attn.attn", "attn.qkv"): weight for name, weight in old.items()}, copy / WEIGHTS)
    back = load_file(converted(copy, tmp_path / "back", "hf") / "model.safetensors")
    wanted = load_file(direct / "model.safetensors")
    changed = {name for name in wanted if not torch.equal(back[name], wanted[name])}
    assert changed == {name for name in wanted if name.split(".")[-2] in ("q_proj", "k_proj", "v_proj")}


def test_the_pickle_may_come_last(direct: Path, copy: Path, tmp_path: Path) -> None:
    """As litgpt's own converter writes it, which saves tensors while it still reads others."""
    with zipfile.ZipFile(copy / WEIGHTS) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    records = {name: data for name, data in records.items() if name != "version" and not name.startswith(".")}
    records["data.pkl"] = records.pop("data.pkl")
    (copy / WEIGHTS).unlink()
    writer = torch._C.PyTorchFileWriter(str(copy / WEIGHTS))
    for name, data in records.items():
        writer.write_record(name, data, len(data))
    writer.write_end_of_file()
    with zipfile.ZipFile(copy / WEIGHTS) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
    assert names.index("data/0") < names.index("data.pkl")
    back = converted(copy, tmp_path / "back", "hf")
    assert (back / "model.safetensors").read_bytes() == (direct / "model.safetensors").read_bytes()


def test_what_finetuning_saves_is_read(direct: Path, copy: Path, tmp_path: Path) -> None:
    """{"model": state dict}; given as a file."""
    torch.save({"model": state_dict(CASE.model())}, copy / WEIGHTS)
    back = converted(copy / WEIGHTS, tmp_path / "back", "hf")
    assert (back / "model.safetensors").read_bytes() == (direct / "model.safetensors").read_bytes()


def test_a_padded_vocabulary_keeps_its_rows(copy: Path, tmp_path: Path) -> None:
    """Rows behind the last token are rows of the model; litgpt names no tokens there."""
    weights, values = torch.load(copy / WEIGHTS), yaml.safe_load((copy / CONFIG).read_text())
    for name in ("transformer.wte.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], torch.full((32, 192), 0.5, dtype=torch.bfloat16)])
    torch.save(weights, copy / WEIGHTS)
    rows = values["vocab_size"] + 32
    (copy / CONFIG).write_text(yaml.dump(values | {"padded_vocab_size": rows}))
    back = converted(copy, tmp_path / "back", "hf")
    assert json.loads((back / "config.json").read_text())["vocab_size"] == rows
    assert load_file(back / "model.safetensors")["lm_head.weight"].shape[0] == rows


def test_a_tied_head_is_stored_once_and_found_again(meta_checkpoint, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "3.2")
    folder = converted(meta_checkpoint(case), tmp_path / "out", "litgpt", case.version)
    found = torch.load(folder / WEIGHTS)
    assert found["lm_head.weight"].data_ptr() == found["transformer.wte.weight"].data_ptr()
    assert open_checkpoint(folder).config.tied
    found["lm_head.weight"] = found["lm_head.weight"] * 2
    torch.save(found, folder / WEIGHTS)
    assert not open_checkpoint(folder).config.tied


@pytest.mark.parametrize("left_out", ["add_bos_token", None])
def test_litgpt_is_told_that_texts_begin_with_a_token(left_out: str | None, direct: Path, tmp_path: Path) -> None:
    """Meta's own Hugging Face folders do not say add_bos_token; litgpt would leave the token out, or not load."""
    start = Path(shutil.copytree(direct, tmp_path / "start"))
    path = start / "tokenizer_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in values.items() if name != left_out}))
    if left_out is None:
        path.unlink()
    folder = converted(start, tmp_path / "out", "litgpt")
    assert json.loads((folder / path.name).read_text())["add_bos_token"] is True
    assert (folder / "generation_config.json").exists()


def test_an_instruct_model_is_named_as_one(meta_checkpoint, tmp_path: Path) -> None:
    """Litgpt chooses the prompt by the name."""
    for version, wanted in (("3.1", "Llama-3.1-Instruct"), ("2", "Llama-2-chat"), ("code", "CodeLlama-Instruct")):
        case = next(case for case in CASES if case.name == version)
        folder = converted(meta_checkpoint(case), tmp_path / version, "litgpt", version, instruct=True)
        assert yaml.safe_load((folder / CONFIG).read_text())["name"] == wanted


def test_types_that_differ_within_a_tensor_become_float32(direct: Path, tmp_path: Path) -> None:
    """One tensor has one type: bytes of several behind one another would be noise."""
    start = Path(shutil.copytree(direct, tmp_path / "start"))
    weights = load_file(start / "model.safetensors")
    name = "model.layers.0.self_attn.k_proj.weight"
    weights[name] = weights[name].float() * 1.001
    save_file(weights, start / "model.safetensors", {"format": "pt"})
    found = torch.load(converted(start, tmp_path / "out", "litgpt") / WEIGHTS)["transformer.h.0.attn.qkv.weight"]
    parts = [weights[f"model.layers.0.self_attn.{part}_proj.weight"].float() for part in "qkv"]
    assert found.dtype is torch.float32
    assert torch.equal(found, torch.cat(parts))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n_head": None}, "lacks n_head"),
        ({"norm_eps": None}, "lacks norm_eps"),
        ({"rope_base": None}, "lacks rope_base"),
        ({"bias": None}, "bias is None, wanted False"),
        ({"rotary_percentage": 0.25}, "rotary_percentage is 0.25, wanted 1.0"),
        ({"mlp_class_name": "GemmaMLP"}, "mlp_class_name is 'GemmaMLP'"),
        ({"sliding_window_size": 4096}, "sliding_window_size is 4096"),
        ({"rope_interleave": True}, "rope_interleave is True"),
        ({"rope_adjustments": {"factor": 4.0}}, "rope_adjustments are {'factor': 4.0}"),
        ({"n_head": "many"}, "n_head is 'many', wanted a whole number"),
        ({"norm_eps": "1e-05"}, "norm_eps is '1e-05', wanted a number"),
        ({"n_query_groups": 5}, "n_head 12 is no multiple of n_query_groups 5"),
        ({"n_query_groups": 6}, "qkv.weight: the file has (320, 192), model_config.yaml says (384, 192)"),
        ({"n_layer": 3}, "missing  transformer.h.2.attn.qkv.weight"),
        ({"n_layer": 1}, "unknown  transformer.h.1.attn.qkv.weight"),
        ({"padded_vocab_size": 0}, "padded_vocab_size must be at least 1"),
        ({"n_layer": 10**9}, "more than any model has"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(values: dict, words: str, copy: Path) -> None:
    found = yaml.safe_load((copy / CONFIG).read_text()) | values
    (copy / CONFIG).write_text(yaml.dump({name: value for name, value in found.items() if value is not None}))
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(copy)
    assert words in str(error.value)
    assert "\n" not in error.value.summary


@pytest.mark.parametrize("text", ["", "- 1\n", "a: [\n", "a: \t- b\n\x00", "a: 2001-13-45\n", "\xff" * 3, "[" * 10000])
def test_a_config_that_is_none_is_refused_in_one_line(text: str, copy: Path) -> None:
    (copy / CONFIG).write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match="model_config") as error:
        open_checkpoint(copy)
    assert "\n" not in error.value.summary


def test_files_that_are_missing_or_damaged(copy: Path) -> None:
    weights = copy / WEIGHTS
    data = weights.read_bytes()
    weights.write_bytes(data[:-1000])
    with pytest.raises(CheckpointError, match=r"lit_model\.pth: truncated"):
        open_checkpoint(copy)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"model_config\.yaml is here, but no lit_model\.pth"):
        open_checkpoint(copy)
    weights.write_bytes(data)
    (copy / CONFIG).unlink()
    with pytest.raises(CheckpointError, match=r"model_config\.yaml: missing"):
        open_checkpoint(copy)
