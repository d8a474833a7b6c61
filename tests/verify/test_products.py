"""Products by torch's faster ways: the same sums."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from llama_convert.verify import products
from llama_convert.verify.products import product

COLUMNS = 96
TYPES = (torch.float32, torch.bfloat16, torch.float64)


def made(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def right(vectors: torch.Tensor, weight: torch.Tensor, found: torch.Tensor) -> bool:
    """Whether every sum is as near as rounding lets it be, in whatever order it was made.

    A sum of n products is off by at most n roundings of what they are without their signs; its result is rounded
    once more. Values of bfloat16 are added up in float32.
    """
    exact, size = (
        torch.einsum("...k,nk->...n", a, b)
        for a, b in ((vectors.double(), weight.double()), (vectors.double().abs(), weight.double().abs()))
    )
    adding = max(torch.finfo(found.dtype).bits, 32)
    rounding = {32: 2.0**-24, 64: 2.0**-53}[adding]
    bound = vectors.shape[-1] * rounding * size + torch.finfo(found.dtype).eps * exact.abs()
    return bool(((found.double() - exact).abs() <= bound).all())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rows", [64, 65])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 1), (2, 1), (2, 5), (513,)])
def test_every_way_makes_the_same_sums(shape: tuple[int, ...], rows: int, dtype: torch.dtype) -> None:
    vectors, weight = made((*shape, COLUMNS), dtype), made((rows, COLUMNS), dtype, 1)
    found = product(vectors, weight)
    assert (found.shape, found.dtype) == ((*shape, rows), dtype)
    assert right(vectors, weight, found)
    assert not right(vectors, weight.roll(1, 0), found)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("count", [1, 4])
def test_a_part_of_the_columns_is_multiplied_where_it_lies(count: int, dtype: torch.dtype) -> None:
    vectors, weight = made((count, COLUMNS), dtype)[:, 32:], made((64, COLUMNS), dtype, 1)[:, 32:]
    assert right(vectors, weight, product(vectors, weight))


@pytest.mark.parametrize("shape", [(1, COLUMNS), (1, 1, COLUMNS)])
def test_the_loop_that_torch_compiles_makes_them_too(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, weight = made(shape, torch.bfloat16), made((64, COLUMNS), torch.bfloat16, 1)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    found = product(vectors, weight)
    assert found.shape == (*shape[:-1], 64)
    assert right(vectors, weight, found)


def test_torch_keeps_its_settings() -> None:
    """Also where a product fails, and where several threads multiply."""
    weight = made((512, COLUMNS), torch.bfloat16)
    with pytest.raises(RuntimeError, match="shape"):
        product(made((1, COLUMNS - 1), torch.bfloat16), weight)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: product(weight[:1], weight), range(2_000)))
    assert torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        product(weight[:1], weight)
        assert not torch.backends.mkldnn.enabled
    finally:
        torch.backends.mkldnn.enabled = True  # type: ignore[assignment]


def test_one_vector_in_bfloat16_is_read_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    plain = torch.nn.functional.linear
    weight = made((64, COLUMNS), torch.bfloat16)

    def looked_at(vectors: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        seen.append(bool(torch.backends.mkldnn.enabled))
        return plain(vectors, matrix)

    monkeypatch.setattr(products.torch.nn.functional, "linear", looked_at)
    for vectors in (weight[:1], weight[:2]):
        product(vectors, weight)
    assert seen == [False, True]
