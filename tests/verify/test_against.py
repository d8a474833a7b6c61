"""Other libraries run our files: right ones pass, every misreading fails and is named, and refusals are told."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from llama_convert.cli import main
from llama_convert.convert import Request, convert_checkpoint, plan_conversion
from llama_convert.convert.architecture import Role, RopeScaling, Rotary, Weight
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.errors import UsageError
from llama_convert.convert.formats import open_checkpoint
from llama_convert.verify.against import LIBRARIES, Library, check, check_against, verify_against
from llama_convert.verify.against.gaps import gap, true_logits, yardsticks
from llama_convert.verify.against.library import Answer, is_consecutive
from llama_convert.verify.against.llama_cpp import places
from llama_convert.verify.forward import FLOAT32, logits_of
from llama_convert.verify.prompts import Prompt, consecutive, prompts
from llama_convert.verify.report import LevelResult, Verdict
from tests.checkpoints import random_model, write_meta

SCALING = RopeScaling(factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context=8192)
Convert = Callable[..., Path]


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Convert:
    """(version, format, type of the matrices) -> the small model of that version in that format; read only."""
    root = tmp_path_factory.mktemp("against")

    def made(version: str, to: str, dtype: DType | None = None) -> Path:
        path = root / f"{version}-{to}-{dtype and dtype.label}"
        if not path.exists():
            meta = root / f"{version}-meta"
            # Rows of 256: what ggml's blocks need.
            model = random_model(version, dim=256, heads=8, kv_heads=2 if version.startswith("3") else None)
            meta = meta if meta.exists() else write_meta(model, meta, tokenizer=model.tokenizer)
            request = Request(dtype=dtype) if dtype in (DType.FLOAT32, None) else Request(quantize=dtype)
            convert_checkpoint(plan_conversion(meta, to=to, request=request, llama_version=version), path)
        return path

    return made


@pytest.fixture
def copied(converted, tmp_path) -> Callable[..., Path]:
    """The same, to be changed."""
    return lambda *what: Path(shutil.copytree(converted(*what), tmp_path / "copy"))


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def misread(a: Checkpoint, **values: Any) -> Checkpoint:
    return replace(a, config=replace(a.config, **values))


def causes(found: tuple[LevelResult, Any]) -> list[str]:
    result, diagnosis = found
    assert result.verdict is Verdict.FAILED
    return [one.cause for one in diagnosis]


# ---- right files ----


@pytest.mark.parametrize(
    ("version", "to", "name"),
    [
        *((version, "hf", "transformers") for version in ("2", "3", "3.1", "3.2")),
        ("3.1", "mlx", "transformers"),
        *((version, "scratch", "llms-from-scratch") for version in ("2", "3", "3.1", "3.2")),
    ],
)
def test_right_files_pass(version, to, name, converted, capfd):
    result, diagnosis = check_against(open_checkpoint(converted(version, to)), name)
    assert (result.name, result.verdict, diagnosis) == ("against", Verdict.PASSED, ())
    assert result.measures["difference"] <= result.gate
    assert result.measures["positions"] == (288 if name == "transformers" else 272)
    assert result.measures["same_first"] >= 0.99
    assert (result.measures["library"], result.warnings) == (name, ())
    assert str(result.measures["version"]) in result.figures
    assert capfd.readouterr() == ("", "")


def test_prompts_with_gaps_are_run_at_their_positions(converted):
    """The sweep passes; the same tokens side by side are another prompt, and far off."""
    a, library = open_checkpoint(converted("3.1", "hf")), LIBRARIES["transformers"]
    (sweep,) = (prompt for prompt in library.askable(prompts(a)) if not is_consecutive(prompt))
    assert 8000 < sweep.positions[-1] < 9000
    (answer,), (stick,) = library.answers(a, (sweep,)), yardsticks(library, a, (sweep,), true_logits(a, (sweep,)))
    beside = consecutive("beside", sweep.tokens)
    right, wrong = (
        gap(sweep, answer, true_logits(a, (prompt,))[0], log_probabilities=False) for prompt in (sweep, beside)
    )
    assert stick.times(right) <= 1
    assert stick.times(wrong) > 100


def test_a_library_without_gaps_is_not_asked_about_them():
    short, sweep = consecutive("short", (1, 2)), Prompt(name="sweep", tokens=(1, 2), positions=(0, 9))
    assert LIBRARIES["llms-from-scratch"].askable((short, sweep)) == (short,)
    assert LIBRARIES["transformers"].askable((short, sweep)) == (short, sweep)


# ---- what differs is found, and named ----


@pytest.mark.parametrize(
    ("version", "changes", "cause", "words"),
    [
        ("3.1", {"rope_theta": 10000.0}, "wrong-theta", "rope_theta as 500000"),
        ("2", {"rope_theta": 1000000.0}, "wrong-theta", "rope_theta as 10000,"),
        ("3.1", {"norm_eps": 1e-6}, "wrong-norm-eps", "norm_eps as 1e-05"),
        ("3", {"rope_scaling": SCALING}, "rope-scaling-missing", "a factor of 8"),
        ("3.1", {"rope_scaling": replace(SCALING, factor=32.0)}, "rope-scaling-factor", "by 8, the files say 32"),
    ],
)
@pytest.mark.parametrize("name", ["transformers", "llms-from-scratch"])
def test_a_value_read_in_another_way_is_named(version, changes, cause, words, name, converted):
    """It is our side that is changed here: both would read the same change in the files."""
    to = {"transformers": "hf", "llms-from-scratch": "scratch"}[name]
    found = check_against(misread(open_checkpoint(converted(version, to)), **changes), name)
    assert causes(found) == [cause]
    assert words in found[1][0].sentence
    assert found[0].measures["difference"] > 10 * found[0].gate


def test_the_other_rotary_order_is_named(converted):
    a = open_checkpoint(converted("3", "hf"))
    assert causes(check_against(replace(a, rotary=Rotary.PAIRS), "transformers")) == ["rotary-order"]


def test_rope_values_in_words_that_the_library_does_not_know(copied):
    """As transformers 4 reads a config.json that has rope_parameters alone: both are lost, and both are named."""
    folder = copied("3.1", "hf")
    a = open_checkpoint(folder)
    config = json.loads((folder / "config.json").read_text())
    for key in ("rope_theta", "rope_scaling", "rope_parameters"):
        del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    found = check_against(a, "transformers")
    assert causes(found) == ["wrong-theta", "rope-scaling-missing"]
    assert found[1][0].sentence.startswith("transformers ")
    assert found[1][0].sentence.endswith("reads rope_theta as 10000, the files say 500000")
    assert "convert" in found[1][0].fix


def test_a_head_tied_by_mistake_is_named(converted, monkeypatch):
    a = open_checkpoint(converted("3", "hf"))
    parts = {weight: found for weight, found in a.parts.items() if weight != Weight(Role.HEAD)}
    library = pretending(replace(a, parts=parts))
    monkeypatch.setitem(LIBRARIES, "transformers", library)
    assert causes(check_against(a, "transformers")) == ["head-tied-by-mistake"]


def pretending(other: Checkpoint) -> Library:
    """transformers, as if it had read this one."""

    def answers(_: Checkpoint, asked: tuple[Prompt, ...]):
        found = zip(asked, logits_of(other, asked, FLOAT32), strict=True)
        return (Answer(at=tuple(range(len(prompt.tokens))), scores=scores) for prompt, scores in found)

    return replace(LIBRARIES["transformers"], answers=answers)


def test_other_weights_fail_and_no_cause_is_made_up(converted, copied):
    """Our side reads a copy with one matrix of zeros."""
    a = open_checkpoint(copied("3", "hf"))
    (piece,) = a.parts[Weight(Role.DOWN, 1)].pieces
    with (a.folder / "model.safetensors").open("r+b") as file:
        file.seek(piece.offset)
        file.write(bytes(piece.nbytes))
    assert causes(check_against(replace(a, path=converted("3", "hf")), "transformers")) == []


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_no_number_from_the_library_is_a_failure(value, converted, monkeypatch):
    a = open_checkpoint(converted("3", "hf"))
    honest = pretending(a)

    def answers(checkpoint, asked):
        for answer in honest.answers(checkpoint, asked):
            answer.scores[0, 0] = value
            yield answer

    monkeypatch.setitem(LIBRARIES, "transformers", replace(honest, answers=answers))
    assert causes(check_against(a, "transformers")) == []


def test_a_gate_that_proves_nothing_is_no_pass(converted, monkeypatch):
    monkeypatch.setattr(check, "CEILING", 1e-9)
    result, _ = check_against(open_checkpoint(converted("3", "scratch")), "llms-from-scratch")
    assert result.verdict is Verdict.NOT_CHECKED
    assert "proves nothing" in result.figures


# ---- requests that cannot be carried out ----


def test_unknown_names_are_refused_with_the_known_ones(converted):
    with pytest.raises(UsageError, match="transformers, llms-from-scratch, llama-cpp"):
        verify_against(converted("3", "hf"), "vllm")


@pytest.mark.parametrize(
    ("name", "to"), [("transformers", "hf"), ("llms-from-scratch", "scratch"), ("llama-cpp", "gguf")]
)
def test_a_library_that_is_not_installed(name, to, converted, monkeypatch):
    monkeypatch.setitem(sys.modules, LIBRARIES[name].module, None)
    with pytest.raises(UsageError, match="pip install"):
        verify_against(converted("3", to), name)


def test_a_format_that_the_library_does_not_read(converted):
    with pytest.raises(UsageError, match=r"llama-convert convert .* --to gguf"):
        verify_against(converted("3", "hf"), "llama-cpp")


def test_quantised_weights_are_for_llama_cpp_only(converted):
    a = open_checkpoint(converted("3", "gguf", DType.Q8_0))
    LIBRARIES["llama-cpp"].fit(a)
    with pytest.raises(UsageError, match="is quantised"):
        replace(LIBRARIES["transformers"], reads=("gguf",)).fit(a)


# ---- files that the library refuses ----


def test_the_librarys_own_words_are_one_line(copied):
    folder = copied("3", "hf")
    a = open_checkpoint(folder)
    change_config(folder, model_type="no-such-model")
    result, diagnosis = check_against(a, "transformers")
    assert (result.verdict, diagnosis) == (Verdict.FAILED, ())
    (finding,) = result.findings
    assert "no-such-model" in finding
    assert len(finding.splitlines()) == 1
    assert "Traceback" not in finding


def test_weights_that_transformers_would_fill_at_random_are_a_refusal(copied):
    folder = copied("3", "hf")
    a = open_checkpoint(folder)
    change_config(folder, num_hidden_layers=3)
    (finding,) = check_against(a, "transformers")[0].findings
    assert "no tensor that fits for 9 of its weights" in finding


def test_transformers_talks_as_before_afterwards(converted):
    from transformers.utils import logging

    logging.set_verbosity_info()
    logging.enable_progress_bar()
    check_against(open_checkpoint(converted("3", "hf")), "transformers")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (logging.INFO, True)
    logging.set_verbosity_warning()


def test_from_the_command_line(copied, capfd):
    """Tables that older classes of the book kept: we skip them, a strict load refuses them."""
    folder = copied("3", "scratch")
    assert main(["verify", str(folder), "--against", "llms-from-scratch"]) == 0
    assert ": sound" in capfd.readouterr().out
    assert main(["verify", str(folder), str(folder), "--against", "llms-from-scratch"]) == 2
    (path,) = folder.glob("*.pth")
    torch.save(torch.load(path) | {"mask": torch.zeros(1)}, path)
    capfd.readouterr()
    assert main(["verify", str(folder), "--against", "llms-from-scratch", "--json"]) == 1
    shown = json.loads(capfd.readouterr().out)
    assert [level["name"] for level in shown["levels"]] == ["structure", "against"]
    assert '"mask"' in shown["levels"][1]["findings"][0]


# ---- llama.cpp, whose package is a stand-in here; `make clients` runs the real one ----


class Stand:
    """xllamacpp as far as it is used: answers from our own forward pass. path: of the model that it says to have."""

    asked: list[list[int]]

    def __init__(self, path: Path | None = None, **misreading: Any) -> None:
        self.path, self.misreading, self.asked = path, misreading, []

    def module(self) -> ModuleType:
        module = ModuleType("xllamacpp")
        names = SimpleNamespace(GGML_TYPE_F32=0, LLAMA_FLASH_ATTN_TYPE_DISABLED=0)
        module.CommonParams = lambda: SimpleNamespace(model=SimpleNamespace(), cpuparams=SimpleNamespace())
        module.ggml_type = module.llama_flash_attn_type = names
        module.Server = self._server
        return module

    def _server(self, parameters: Any) -> Any:
        if self.path is None:
            os.write(2, b"0.00.1 I loading\n0.00.2 E unknown pre-tokenizer type\n0.00.3 E failed\n")
            raise RuntimeError("Failed to init server")
        assert parameters.cache_type_k == parameters.cache_type_v == 0
        return SimpleNamespace(handle_completions=self._complete)

    def _complete(self, request: dict[str, Any]) -> dict[str, Any]:
        tokens = tuple(request["prompt"])
        self.asked.append(list(tokens))
        model = misread(open_checkpoint(self.path), **self.misreading)
        scores = logits_of(model, (consecutive("", tokens),), FLOAT32)[0][-1].log_softmax(-1)
        best = scores.topk(request["logprobs"])
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        top = [{"id": number, "logprob": value} for number, value in pairs]
        return {"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.Q8_0])
def test_llama_cpp_is_asked_prefix_by_prefix(dtype, converted, monkeypatch):
    a = open_checkpoint(converted("3.1", "gguf", dtype))
    stand = Stand(a.path)
    monkeypatch.setitem(sys.modules, "xllamacpp", stand.module())
    result, _ = check_against(a, "llama-cpp")
    assert result.verdict is Verdict.PASSED
    assert result.measures["positions"] == len(stand.asked) == 24
    assert result.measures["judged"] == ("difference" if dtype is DType.FLOAT32 else "divergence")
    assert len(result.warnings) == (0 if dtype is DType.FLOAT32 else 1)
    short, long, _ = prompts(a)
    assert {tuple(tokens) for tokens in stand.asked} == {
        prompt.tokens[: place + 1] for prompt in (short, long) for place in places(len(prompt.tokens))
    }


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.Q8_0])
def test_llama_cpp_with_another_theta_is_named(dtype, converted, monkeypatch):
    a = open_checkpoint(converted("3.1", "gguf", dtype))
    monkeypatch.setitem(sys.modules, "xllamacpp", Stand(a.path, rope_theta=10000.0).module())
    assert causes(check_against(a, "llama-cpp")) == ["wrong-theta"]


def test_llama_cpps_own_words_are_those_of_its_log(converted, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "xllamacpp", Stand().module())
    result, _ = check_against(open_checkpoint(converted("3.1", "gguf")), "llama-cpp")
    assert result.findings == ("llama-cpp of an unknown version: unknown pre-tokenizer type",)
    assert capfd.readouterr().err == ""


def test_places_begin_and_end_with_the_prompt():
    assert places(1) == (0,)
    assert places(5) == (0, 1, 2, 3, 4)
    assert len(places(256)) == 12
    assert (places(256)[0], places(256)[-1]) == (0, 255)
