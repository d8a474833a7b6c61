"""Meta to Hugging Face as a whole, judged by Meta's own model on the source and transformers on the output."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llama_convert.convert import Request, convert_checkpoint, plan_conversion
from llama_convert.convert.architecture import Rotary
from llama_convert.convert.formats.huggingface import HUGGING_FACE
from llama_convert.convert.plan import make_plan
from tests.checkpoints import CASES, Case, random_model, write_meta
from tests.meta_reference import GATE, meta_logits, random_tokens, relative_difference, transformers_logits

POSITIONS = 256
# What the smallest mistake does at this many positions is hundreds of times the gate: any lower factor will do.
VISIBLE = 50


def converted(source: Path, target: Path, version: str | None = None, **request: object) -> Path:
    plan = plan_conversion(source, request=Request(**request), llama_version=version)  # type: ignore[arg-type]
    return convert_checkpoint(plan, target).folder


def difference(case: Case, folder: Path) -> float:
    model = case.model()
    tokens = random_tokens(model.vocab, POSITIONS)
    return relative_difference(meta_logits(model, tokens), transformers_logits(folder, tokens))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_output_is_the_same_model(case: Case, meta_checkpoint, tmp_path: Path) -> None:
    """All versions, tied or not, 1 to 16 shards: same fp32 logits at every position."""
    folder = converted(meta_checkpoint(case), tmp_path / "out", case.version)
    assert difference(case, folder) <= GATE


def test_rows_left_in_metas_order_would_be_seen(meta_checkpoint, tmp_path: Path) -> None:
    """Negative control: the same conversion, told that the target has Meta's rotary order."""
    case = CASES[4]
    plan = plan_conversion(meta_checkpoint(case), llama_version=case.version)
    wrong = make_plan(plan.source, replace(HUGGING_FACE, rotary=Rotary.PAIRS), plan.request)
    convert_checkpoint(wrong, tmp_path / "out")
    assert difference(case, tmp_path / "out") > VISIBLE * GATE


@pytest.mark.parametrize("key", ["rope_scaling", "rope_theta", "rms_norm_eps"])
def test_a_lost_constant_would_be_seen(key: str, meta_checkpoint, tmp_path: Path) -> None:
    """Negative control: config.json is judged too, in the keys that transformers 4 reads."""
    case = CASES[4]
    folder = converted(meta_checkpoint(case), tmp_path / "out", case.version)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    path.write_text(json.dumps(config))
    assert difference(case, folder) <= GATE
    wrong = {"rope_scaling": None, "rope_theta": 10000.0, "rms_norm_eps": 1e-6}
    path.write_text(json.dumps(config | {key: wrong[key]}))
    assert difference(case, folder) > VISIBLE * GATE


LAYOUTS = {
    "legacy": {"legacy": True},
    "shared storage": {"shared_storage": True},
    "strided": {"strided": True},
    "nested params": {"params_nested": True},
    "rope.freqs": {"rope_freqs": True},
    "2 shards": {"shards": 2},
    "4 shards": {"shards": 4},
    "4 shards, one storage": {"shards": 4, "shared_storage": True},
    "2 shards, strided": {"shards": 2, "strided": True},
    "2 shards, embedding by columns": {"shards": 2, "embedding_axis": 1},
    "4 shards, legacy": {"shards": 4, "legacy": True},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
@pytest.mark.parametrize("version", ["2", "3.2"])
def test_the_layout_of_the_source_leaves_no_trace(version: str, layout: dict, tmp_path: Path) -> None:
    """However a model lies in its files, the weights written are the same bytes."""
    model = random_model(version)
    for name, options in (("plain", {}), ("other", layout)):
        write_meta(model, tmp_path / name, tokenizer=model.tokenizer, **options)
        converted(tmp_path / name, tmp_path / f"{name}-out", version)
    plain, other = ((tmp_path / f"{name}-out" / "model.safetensors").read_bytes() for name in ("plain", "other"))
    assert plain == other


def test_each_tensor_is_its_sources_bytes(meta_checkpoint, tmp_path: Path) -> None:
    """Judged by torch and safetensors: only q and k change, and those by the published formula."""
    case = next(case for case in CASES if case.name == "3.1")
    model = case.model()
    out = load_file(converted(meta_checkpoint(case), tmp_path / "out") / "model.safetensors")
    for ours, metas, heads in (("q_proj", "wq", model.heads), ("k_proj", "wk", model.kv_heads)):
        weight = model.weights[f"layers.1.attention.{metas}.weight"]
        halves = weight.view(heads, model.head_dim // 2, 2, -1).transpose(1, 2).reshape(weight.shape)
        assert torch.equal(out[f"model.layers.1.self_attn.{ours}.weight"], halves)
        assert not torch.equal(weight, halves)
    for ours, metas in (
        ("model.embed_tokens", "tok_embeddings"),
        ("lm_head", "output"),
        ("model.norm", "norm"),
        ("model.layers.0.self_attn.v_proj", "layers.0.attention.wv"),
        ("model.layers.0.self_attn.o_proj", "layers.0.attention.wo"),
        ("model.layers.0.mlp.gate_proj", "layers.0.feed_forward.w1"),
        ("model.layers.0.mlp.up_proj", "layers.0.feed_forward.w3"),
        ("model.layers.0.mlp.down_proj", "layers.0.feed_forward.w2"),
        ("model.layers.0.input_layernorm", "layers.0.attention_norm"),
        ("model.layers.0.post_attention_layernorm", "layers.0.ffn_norm"),
    ):
        assert torch.equal(out[f"{ours}.weight"], model.weights[f"{metas}.weight"])
    assert len(out) == len(model.weights)


@pytest.mark.parametrize("tied", [True, "copy", False])
def test_a_tied_head_is_recognised_by_value(tied: object, tmp_path: Path) -> None:
    model = random_model("3.2", tied=tied)  # type: ignore[arg-type]
    write_meta(model, tmp_path / "in", tokenizer=model.tokenizer)
    folder = converted(tmp_path / "in", tmp_path / "out", "3.2")
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is bool(tied)
    assert ("lm_head.weight" in load_file(folder / "model.safetensors")) is not bool(tied)


def test_repeated_kv_heads_are_written_once(meta_checkpoint, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.kv_copies > 1)
    folder = converted(meta_checkpoint(case), tmp_path / "out", case.version)
    config = json.loads((folder / "config.json").read_text())
    keys = load_file(folder / "model.safetensors")["model.layers.0.self_attn.k_proj.weight"]
    assert config["num_key_value_heads"] == case.kv_heads
    assert keys.shape[0] == case.kv_heads * config["head_dim"]


# Behind the 512 ranks of the small tokenizer: 512 begins a text, 513 ends one, 520 is <|eom_id|>, 521 <|eot_id|>.
ENDS = {
    ("3", False): 513,
    ("3", True): [513, 521],
    ("3.1", False): 513,
    ("3.1", True): [513, 520, 521],
    ("3.3", True): [513, 520, 521],
    ("2", False): 2,
    ("2", True): 2,
}


@pytest.mark.parametrize(("version", "instruct"), ENDS)
def test_configs_say_where_an_answer_ends(version: str, instruct: bool, meta_checkpoint, tmp_path: Path) -> None:
    """Llama 3 Instruct was released without <|eot_id|> and never stopped; Llama 3 has no <|eom_id|>."""
    case = next(case for case in CASES if case.name == version)
    folder = converted(meta_checkpoint(case), tmp_path / "out", version, instruct=instruct)
    config, generation, tokenizer = (
        json.loads((folder / name).read_text())
        for name in ("config.json", "generation_config.json", "tokenizer_config.json")
    )
    assert config["eos_token_id"] == generation["eos_token_id"] == ENDS[version, instruct]
    assert config["bos_token_id"] == generation["bos_token_id"] == (1 if version == "2" else 512)
    assert ("chat_template" in tokenizer) is instruct


# context, theta, scaling factor: correctness by version.
CONSTANTS = {
    "1": (2048, 10000.0, None),
    "2": (4096, 10000.0, None),
    "code": (16384, 1000000.0, None),
    "3": (8192, 500000.0, None),
    "3.1": (131072, 500000.0, 8.0),
    "3.2": (131072, 500000.0, 32.0),
    "3.3": (131072, 500000.0, 8.0),
    "guard-1": (4096, 10000.0, None),
    "guard-2": (8192, 500000.0, None),
    "guard-3": (131072, 500000.0, 8.0),
}


@pytest.mark.parametrize("version", CONSTANTS)
def test_config_speaks_both_dialects(version: str, meta_checkpoint, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == version)
    folder = converted(meta_checkpoint(case), tmp_path / "out", version)
    config = json.loads((folder / "config.json").read_text())
    context, theta, factor = CONSTANTS[version]
    assert (config["max_position_embeddings"], config["rope_theta"]) == (context, theta)
    assert config["rope_parameters"]["rope_theta"] == theta
    assert config["torch_dtype"] == config["dtype"] == ("float16" if version == "1" else "bfloat16")
    if factor is None:
        assert config["rope_scaling"] is None
        assert config["rope_parameters"] == {"rope_theta": theta, "rope_type": "default"}
    else:
        assert config["rope_scaling"]["factor"] == factor
        assert config["rope_parameters"] == {"rope_theta": theta, **config["rope_scaling"]}


def test_two_runs_write_the_same_files(meta_checkpoint, tmp_path: Path) -> None:
    """All but the certificate, which has the date."""
    case = CASES[3]
    folders = [converted(meta_checkpoint(case), tmp_path / name, case.version) for name in ("one", "two")]
    one, two = (
        {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.name != "conversion.json"
        }
        for folder in folders
    )
    assert one == two


def test_metas_own_small_files_are_kept(meta_checkpoint, tmp_path: Path) -> None:
    """Under original/: a tokenizer.model at the root would be taken for SentencePiece by llama.cpp."""
    source = meta_checkpoint(CASES[3])
    folder = converted(source, tmp_path / "out")
    for name in ("params.json", "tokenizer.model"):
        assert (folder / "original" / name).read_bytes() == (source / name).read_bytes()
        assert not (folder / name).exists()
