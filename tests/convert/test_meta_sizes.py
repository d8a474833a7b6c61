"""params.json's terms for a feed-forward size, judged by Meta's own FeedForward."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_convert.convert.formats.meta_sizes import intermediate_size, terms_for
from tests.meta_reference import install_fairscale_stub

# (dim, size) -> (multiple_of, ffn_dim_multiplier) as in the params.json of the releases.
FIRST = {
    "Llama 1 and 2 7B": (4096, 11008, 256, None),
    "Llama 1 and 2 13B": (5120, 13824, 256, None),
    "Llama 1 30B": (6656, 17920, 256, None),
    "Llama 1 65B": (8192, 22016, 256, None),
    "Llama 2 70B": (8192, 28672, 4096, 1.3),
}
LATER = {
    "Code Llama 7B": (4096, 11008, 256, 1.0),
    "Code Llama 13B": (5120, 13824, 256, 1.0),
    "Code Llama 34B": (8192, 22016, 256, 1.0),
    "Code Llama 70B": (8192, 28672, 4096, 1.3),
    "Llama 3 8B": (4096, 14336, 1024, 1.3),
    "Llama 3 70B": (8192, 28672, 4096, 1.3),
    "Llama 3.1 405B": (16384, 53248, 4096, 1.2),
    "Llama 3.2 1B": (2048, 8192, 256, 1.5),
    "Llama 3.2 3B": (3072, 8192, 256, 1.0),
}


def metas_size(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """Rows of w1 in Meta's own layer; no memory is taken for them."""
    install_fairscale_stub()
    from llama_models.llama3.model import FeedForward

    with torch.device("meta"):
        layer = FeedForward(dim=dim, hidden_dim=4 * dim, multiple_of=multiple_of, ffn_dim_multiplier=multiplier)
    return layer.w1.weight.shape[0]


@pytest.mark.parametrize("release", FIRST)
def test_terms_of_the_first_releases(release: str) -> None:
    dim, size, *terms = FIRST[release]
    assert terms_for(dim, size, plain=None) == tuple(terms)
    assert metas_size(dim, *terms) == size


@pytest.mark.parametrize("release", LATER)
def test_terms_of_the_later_releases(release: str) -> None:
    dim, size, *terms = LATER[release]
    assert terms_for(dim, size, plain=1.0) == tuple(terms)
    assert metas_size(dim, *terms) == size


@settings(deadline=2000, max_examples=300)
@given(dim=st.integers(1, 20_000), size=st.integers(1, 80_000), plain=st.sampled_from([None, 1.0]))
def test_every_size_has_terms(dim: int, size: int, plain: float | None) -> None:
    multiple_of, multiplier = terms_for(dim, size, plain=plain)
    assert metas_size(dim, multiple_of, multiplier) == size == intermediate_size(dim, multiple_of, multiplier)
    assert multiplier is None or 0 < multiplier == round(multiplier, 12)


@settings(deadline=2000, max_examples=300)
@given(
    dim=st.integers(1, 20_000),
    multiple_of=st.sampled_from([1, 2, 32, 64, 96, 256, 1000, 1024, 4096]),
    multiplier=st.none() | st.floats(0.1, 5),
)
def test_the_formula_is_metas(dim: int, multiple_of: int, multiplier: float | None) -> None:
    assert intermediate_size(dim, multiple_of, multiplier) == metas_size(dim, multiple_of, multiplier)
