"""Laws of seeded noise: sample i depends on seed i alone."""

from __future__ import annotations

import pytest
import torch
from conftest import F64
from scipy.stats import kstest

from ebbflow.core.noise import Noise

DIMS = [(3,), (2, 5), (1, 28, 28)]


def draws(seeds: list[int], dims: tuple[int, ...], num: int) -> torch.Tensor:
    """`num` draws in a row, shape (num, B, *dims)."""
    noise = Noise(seeds)
    return torch.stack([noise.draw(dims) for _ in range(num)])


@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_a_sample_does_not_know_its_batch(dims: tuple[int, ...]) -> None:
    together = draws([7, 0, 123456789, 3], dims, 11)
    assert torch.equal(draws([123456789], dims, 11)[:, 0], together[:, 2]), "alone"
    assert torch.equal(draws([3, 7], dims, 11)[:, 0], together[:, 3]), "in another place of another batch"
    big = draws(list(range(64)), dims, 11)
    assert torch.equal(big[:, 7], together[:, 0]) and torch.equal(big[:, 3], together[:, 3]), "in a batch of 64"


@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_draws_are_independent_standard_normals(dims: tuple[int, ...]) -> None:
    x = draws(list(range(400)), dims, 17).double()
    flat = x.flatten()
    num = len(flat)
    assert abs(float(flat.mean())) < 4.5 / num**0.5 and abs(float(flat.var()) - 1) < 4.5 * (2 / num) ** 0.5
    assert kstest(flat[:: max(num // 20_000, 1)].numpy(), "norm").pvalue > 1e-4
    for what, left, right in (("draws", x[:-1], x[1:]), ("seeds", x[:, :-1], x[:, 1:]), ("block ends", x[:8], x[8:16])):
        assert abs(float((left * right).mean())) < 4.5 / left.numel() ** 0.5, f"neighbouring {what} are correlated"
    assert len(torch.unique(x.reshape(17 * 400, -1)[:, 0])) > 0.99 * 17 * 400, "draws repeat"


def test_dtype_and_device_do_not_change_the_values() -> None:
    single = Noise([1, 2]).like(torch.zeros(2, 6))
    double = Noise([1, 2]).like(torch.zeros(2, 6, dtype=F64))
    half = Noise([1, 2]).like(torch.zeros(2, 6, dtype=torch.bfloat16))
    assert single.dtype == torch.float32 and double.dtype == F64 and half.dtype == torch.bfloat16
    assert torch.equal(single.double(), double) and torch.equal(single.bfloat16(), half)


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = Noise([1]).draw((4,))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(Noise([1]).draw((4,)), first)


def test_bad_seeds_and_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="seeds must be 0 or more, got -2"):
        Noise([3, -2])
    with pytest.raises(ValueError, match="2 seeds, one a sample; got a batch of 3"):
        Noise([1, 2]).like(torch.zeros(3, 4))
