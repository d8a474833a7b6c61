"""Contract: every quantised type has an expectation, and a checkpoint has that of its coarsest matrices."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama_convert.convert.architecture import Role, Weight
from llama_convert.convert.checkpoint import Parts
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.formats import open_checkpoint
from llama_convert.verify.expectations import MEASURED, PUBLISHED, STAND_INS, expectation, expected
from llama_convert.verify.reading import stored_type
from llama_convert.verify.report import Verdict
from llama_convert.verify.tensors import check_tensors
from tests.checkpoints import CASES
from tests.convert.test_huggingface_quantised import FBGEMM, GROUP, INT, affine, by_rows, coded, int8

BY_NAME = {case.name: case for case in CASES}


def test_every_type_of_ggml_has_numbers():
    assert {dtype.label for dtype in DType if dtype.block > 1} <= MEASURED.keys()
    assert MEASURED.keys() == PUBLISHED.keys() | STAND_INS.keys()
    assert not PUBLISHED.keys() & STAND_INS.keys()


@pytest.mark.parametrize(
    ("name", "divergence", "ratio"),
    [("q2_k", 0.445132, 1.564849), ("q6_k", 0.005452, 1.003490), ("q8_0", 0.001355, 1.000425)],
)
def test_ratios_are_those_published(name, divergence, ratio):
    """The second table of the same page, which has both for the same files."""
    found = expectation(name)
    assert found.divergence == divergence
    assert found.perplexity_ratio == pytest.approx(ratio, abs=1e-6)


@pytest.mark.parametrize("name", MEASURED)
def test_numbers_are_possible(name):
    found = expectation(name)
    assert 0 < MEASURED[name] < found.relative_error < 1
    assert found.perplexity_ratio > 1
    assert 0 < found.divergence < 3


def test_a_coarser_stand_in_never_flatters():
    """But for affine codes of 4 bits, whose groups of 128 are coarser than Q4_0, those of 64 are not."""
    worse = {name for name, other in STAND_INS.items() if MEASURED[name] > MEASURED[other]}
    assert worse == {"tq1_0", "tq2_0", "affine of 4 bits", "int8 by tensors"}


def with_type(checkpoint, weight, dtype):
    """The checkpoint as if that weight were stored in another type; nothing is read."""
    parts = dict(checkpoint.parts)
    parts[weight] = Parts((replace(parts[weight].pieces[0], dtype=dtype),), parts[weight].axis)
    return replace(checkpoint, parts=parts)


def test_the_coarsest_matrix_decides(open_pair):
    a, b = open_pair(BY_NAME["3"])
    assert expected(a) is expected(b) is None
    fine = with_type(b, Weight(Role.GATE, 0), DType.Q6_K)
    assert expected(fine) == expectation("q6_k")
    assert expected(with_type(fine, Weight(Role.UP, 1), DType.Q3_K)) == expectation("q3_k")
    assert expected(with_type(fine, Weight(Role.HEAD), DType.Q8_0)) == expectation("q6_k")


MLX = {bits: {"quantization": {"group_size": GROUP, "bits": bits}} for bits in (2, 4, 8)}
FOLDERS = {
    "affine of 2 bits": (MLX[2], lambda weights: affine(2, weights)),
    "affine of 4 bits": (MLX[4], lambda weights: affine(4, weights)),
    "affine of 8 bits": (MLX[8], lambda weights: affine(8, weights)),
    "float8_e4m3fn": (FBGEMM, lambda weights: coded(by_rows, weights)),
    "int8 by rows": (INT, lambda weights: coded(int8, weights)),
}
GATE, QUERY = "model.layers.1.mlp.gate_proj", "model.layers.0.self_attn.q_proj"


@pytest.fixture
def quantised_pair(open_pair):
    """(name of a type, change) -> the source, and its Hugging Face folder in that type."""

    def made(name, change=lambda weights: None):
        a, b = open_pair(BY_NAME["3"])
        settings, make = FOLDERS[name]
        path = b.path / "model.safetensors"
        plain = load_file(path)
        change(plain)
        stored, _ = make(plain)
        mark = "mlx" if "quantization" in settings else "pt"
        save_file({key: tensor.contiguous() for key, tensor in stored.items()}, path, {"format": mark})
        config = json.loads((b.path / "config.json").read_text())
        (b.path / "config.json").write_text(json.dumps(config | settings))
        return a, open_checkpoint(b.path)

    return made


@pytest.mark.parametrize("name", FOLDERS)
def test_codes_with_scales_apart_are_judged_by_their_error(name, quantised_pair):
    a, b = quantised_pair(name)
    result = check_tensors(a, b)
    assert (result.verdict, result.findings) == (Verdict.PASSED, ())
    assert 0.1 < result.measures["worst_error"] < 1
    assert expected(b) == expectation(name)
    assert stored_type(b.parts[Weight(Role.GATE, 1)].pieces[0]) == name


@pytest.mark.parametrize("name", FOLDERS)
def test_a_wrong_tensor_among_them_is_found(name, quantised_pair):
    def rolled(weights):
        weights[f"{QUERY}.weight"] = torch.roll(weights[f"{QUERY}.weight"], 1, 0)

    found = check_tensors(*quantised_pair(name, rolled)).findings
    assert [finding.partition(":")[0] for finding in found] == ["query projection of layer 0"]
    assert f"{name} explains" in found[0]
