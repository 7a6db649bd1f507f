"""Metrics against closed forms, brute force and another library."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor

from ebbflow.data import load_dataset
from ebbflow.metrics.features import coordinates
from ebbflow.metrics.measure import block_errors, jackknife, measure, memorisation, table
from ebbflow.metrics.scores import (
    HIGHER,
    METRICS,
    Comparison,
    Moments,
    accumulated,
    frechet,
    frechet_infinity,
    frechet_of,
    histogram_distance,
    kid,
    manifold,
    moments,
    nearest_distances,
    spread_rows,
)
from ebbflow.metrics.yardstick import Features, Yardstick

F64 = torch.float64


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def law(mean: Tensor, covariance: Tensor, count: int = 10**6) -> Moments:
    return Moments(count=count, mean=mean, scatter=covariance * (count - 1))


def spd(dim: int, seed: int) -> Tensor:
    root = draw(dim, dim, seed=seed)
    return root @ root.T / dim + 0.1 * torch.eye(dim, dtype=F64)


# -- Frechet distance -----------------------------------------------------------------------------------------------


def test_frechet_of_diagonal_gaussians_is_the_closed_form() -> None:
    means, stds = draw(2, 9, seed=0), draw(2, 9, seed=1).abs()
    found = frechet_of(*(law(m, torch.diag(s**2)) for m, s in zip(means, stds, strict=True)))
    assert found == pytest.approx(float((means[0] - means[1]).square().sum() + (stds[0] - stds[1]).square().sum()))


def test_frechet_of_full_covariances_is_the_matrix_root_formula() -> None:
    a, b = spd(12, 0), spd(12, 1)
    root = np.real(linalg.sqrtm((a @ b).numpy()))
    expected = float(a.trace() + b.trace()) - 2 * np.trace(root)
    zero = torch.zeros(12, dtype=F64)
    assert frechet_of(law(zero, a), law(zero, b)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("num", [5, 400])
def test_frechet_of_a_set_with_itself_is_zero_whatever_its_rank(num: int) -> None:
    x = draw(num, 30, seed=2)
    assert frechet(x, x) < 1e-5 * float(x.var(0).sum())


def test_frechet_is_symmetric_and_does_not_see_rotations_and_shifts() -> None:
    x, y = draw(200, 8, seed=3), 1.5 * draw(150, 8, seed=4) + 0.3
    turn = torch.linalg.qr(draw(8, 8, seed=5)).Q
    assert frechet(x, y) == pytest.approx(frechet(y, x), rel=1e-9)
    assert frechet(x @ turn + 7, y @ turn + 7) == pytest.approx(frechet(x, y), rel=1e-9)


def test_frechet_of_equal_gaussians_is_biased_by_its_first_order_in_one_over_n() -> None:
    """For N(0, I): E ||mean||^2 = D / N, and sum (sqrt(l) - 1)^2 over the eigenvalues l of the sample covariance C is
    ||C - I||^2 / 4 to second order, on average D (D + 1) / (4 N)."""
    dim, num = 16, 1000
    true = law(torch.zeros(dim, dtype=F64), torch.eye(dim, dtype=F64))
    found = [frechet_of(true, moments(draw(num, dim, seed=s))) for s in range(60)]
    expected = dim / num + dim * (dim + 1) / (4 * num)
    assert sum(found) / len(found) == pytest.approx(expected, rel=0.05)


def test_extrapolation_removes_most_of_the_bias() -> None:
    dim, num = 32, 400
    true = law(torch.zeros(dim, dtype=F64), torch.eye(dim, dtype=F64))
    sets = [1.2 * draw(num, dim, seed=s) for s in range(12)]
    truth = dim * 0.2**2
    raw = sum(frechet_of(true, moments(x)) for x in sets) / len(sets) - truth
    extrapolated = sum(frechet_infinity(true, x) for x in sets) / len(sets) - truth
    assert raw > 0.5
    assert abs(extrapolated) < 0.15 * raw


def test_frechet_agrees_with_torchmetrics() -> None:
    torchmetrics = pytest.importorskip("torchmetrics.image.fid")
    x, y = draw(100, 6, seed=6), draw(90, 6, seed=7) * 1.3 + 0.2
    a, b = moments(x), moments(y)
    theirs = torchmetrics._compute_fid(a.mean, a.covariance, b.mean, b.covariance)
    assert frechet(x, y) == pytest.approx(float(theirs), rel=1e-6)


# -- moments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 100])
def test_streamed_moments_are_those_of_all_rows(size: int) -> None:
    rows = (draw(100, 5, seed=8) + 1000).float()
    streamed, whole = accumulated(rows.split(size)), rows.double()
    assert streamed.count == 100
    torch.testing.assert_close(streamed.mean, whole.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(streamed.covariance, torch.cov(whole.T), rtol=1e-9, atol=1e-12)


def test_moments_refuse_what_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="at least 2 rows"):
        _ = moments(torch.zeros(1, 3)).covariance
    with pytest.raises(ValueError, match="no rows"):
        accumulated([])


# -- kernel distance ------------------------------------------------------------------------------------------------


def brute_kid(x: Tensor, y: Tensor) -> float:
    def kernel(a: Tensor, b: Tensor) -> float:
        return float((sum(p * q for p, q in zip(a.tolist(), b.tolist(), strict=True)) / len(a) + 1) ** 3)

    def within(z: Tensor) -> float:
        pairs = [kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]
        return sum(pairs) / len(pairs)

    between = [kernel(a, b) for a in x for b in y]
    return within(x) + within(y) - 2 * sum(between) / len(between)


def test_kid_is_the_u_statistic_over_pairs() -> None:
    x, y = draw(13, 3, seed=9), draw(9, 3, seed=10) + 0.5
    assert kid(x, y) == pytest.approx(brute_kid(x, y), rel=1e-9)


def test_kid_of_equal_laws_is_zero_on_average_and_negative_as_often_as_not() -> None:
    values = torch.tensor([kid(draw(40, 4, seed=2 * s), draw(30, 4, seed=2 * s + 1)) for s in range(400)])
    assert abs(float(values.mean())) < 3 * float(values.std()) / math.sqrt(len(values))
    assert 0.3 < float((values < 0).double().mean()) < 0.8


def test_kid_agrees_with_torchmetrics() -> None:
    theirs = pytest.importorskip("torchmetrics.image.kid")
    x, y = draw(50, 6, seed=11), draw(50, 6, seed=12) + 0.3
    assert kid(x, y) == pytest.approx(float(theirs.poly_mmd(x, y)), rel=1e-9)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = draw(60, 4, seed=13), draw(50, 4, seed=14)
    before = (kid(x, y), manifold(x, y), nearest_distances(y, x))
    monkeypatch.setattr("ebbflow.metrics.scores.CHUNK", 7)
    after = (kid(x, y), manifold(x, y), nearest_distances(y, x))
    assert before[0] == pytest.approx(after[0], rel=1e-12)
    assert before[1] == after[1]
    torch.testing.assert_close(before[2], after[2])


# -- precision, recall, density, coverage ---------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 5])
def test_manifold_metrics_are_those_of_brute_force(k: int) -> None:
    real, fake = draw(40, 3, seed=15), 0.7 * draw(31, 3, seed=16) + 0.4
    real_np, fake_np = real.numpy(), fake.numpy()

    def radius(points: np.ndarray, i: int) -> float:
        return sorted(math.dist(points[i], q) for j, q in enumerate(points) if j != i)[k - 1]

    real_radius = [radius(real_np, i) for i in range(len(real))]
    fake_radius = [radius(fake_np, j) for j in range(len(fake))]
    gap = [[math.dist(p, q) for q in fake_np] for p in real_np]
    in_real = [[gap[i][j] <= real_radius[i] for j in range(len(fake))] for i in range(len(real))]
    found = manifold(real, fake, k=k)
    assert found.precision == pytest.approx(np.any(in_real, axis=0).mean())
    assert found.density == pytest.approx(np.sum(in_real) / (k * len(fake)))
    assert found.coverage == pytest.approx(np.any(in_real, axis=1).mean())
    assert found.recall == pytest.approx(
        np.mean([any(g <= r for g, r in zip(row, fake_radius, strict=True)) for row in gap])
    )


def test_manifold_metrics_tell_a_narrow_generator_from_a_wide_one() -> None:
    real = draw(300, 4, seed=17)
    narrow, wide = manifold(real, 0.3 * draw(300, 4, seed=18)), manifold(real, 3 * draw(300, 4, seed=19))
    assert narrow.precision > 0.95 > 0.6 > narrow.recall
    assert wide.recall > 0.6 > wide.precision
    assert narrow.coverage < 0.8 and wide.coverage < 0.8


def test_manifold_refuses_too_few_rows() -> None:
    with pytest.raises(ValueError, match="need more rows"):
        manifold(draw(5, 2, seed=0), draw(50, 2, seed=1))


# -- labels, neighbours, tables -------------------------------------------------------------------------------------


def test_histogram_distance() -> None:
    assert histogram_distance(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 2, 2]), 3) == pytest.approx(0.5)
    assert histogram_distance(torch.tensor([0, 1]), torch.tensor([1, 0, 0, 1]), 5) == 0


def test_nearest_distances_are_exact_for_bytes() -> None:
    g = torch.Generator().manual_seed(0)
    rows, others = (torch.randint(0, 256, (n, 1, 4, 4), generator=g, dtype=torch.uint8) for n in (9, 70))
    brute = [min(math.dist(r.flatten().tolist(), o.flatten().tolist()) for o in others) for r in rows]
    assert nearest_distances(rows, others).tolist() == pytest.approx(brute, rel=1e-15)
    assert nearest_distances(others[:3], others).tolist() == [0, 0, 0]


def test_memorisation_is_zero_for_copies_and_one_for_fresh_data() -> None:
    train, held_out, fresh = (draw(n, 2, seed=20 + n) for n in (300, 200, 201))
    assert memorisation(train[:50], train, held_out)["nearest_ratio"] == pytest.approx(0, abs=1e-6)
    assert memorisation(fresh, train, held_out)["nearest_ratio"] == pytest.approx(1, abs=0.25)
    assert memorisation(fresh, train, held_out[:0])["nearest_ratio"] is None


def yardstick_for(num: int, repeats: int, *, labels: bool = True) -> tuple[Comparison, int, dict[str, float | None]]:
    x = draw(num * repeats, 4, seed=30)
    y = torch.arange(num * repeats) % 2
    comparison = Comparison(
        real=draw(500, 4, seed=31),
        generated=x,
        real_classes=torch.arange(500) % 2 if labels else None,
        classes=torch.where(torch.arange(num * repeats) % 10 == 0, 1 - y, y) if labels else None,
        labels=y if labels else None,
        num_classes=2 if labels else 0,
    )
    return comparison, num, table(replace(comparison, generated=draw(num, 4, seed=32), classes=None, labels=None))


def test_better_is_said_of_every_metric_as_it_is() -> None:
    labels, real = torch.arange(200) % 2, draw(200, 4, seed=40)
    known = {"real": real, "real_classes": labels, "labels": labels, "num_classes": 2}
    good = Comparison(generated=draw(200, 4, seed=41), classes=labels, agrees=torch.ones(200), **known)
    bad = Comparison(generated=real + 3, classes=torch.zeros_like(labels), agrees=torch.zeros(200), **known)
    for name, metric in METRICS.items():
        assert (metric(good) > metric(bad)) is (name in HIGHER), name  # type: ignore[operator]


def test_measure_gives_every_metric_and_a_floor() -> None:
    found = measure(*yardstick_for(100, 1))
    assert found.keys() >= {*METRICS, "frechet_floor", "standard_errors", "floor", "repeats"}
    assert found["label_accuracy"] == pytest.approx(0.9)
    assert found["label_accuracy_by_class"] == pytest.approx([0.8, 1.0])
    assert found["standard_errors"]["label_accuracy"] == pytest.approx(0.03)
    assert found["frechet"] == pytest.approx(frechet(draw(500, 4, seed=31), draw(100, 4, seed=30)))
    assert found["frechet_floor"] == pytest.approx(frechet(draw(500, 4, seed=31), draw(100, 4, seed=32)))


def test_unlabelled_data_has_no_label_values() -> None:
    found = measure(*yardstick_for(100, 1, labels=False))
    assert (found["label_accuracy"], found["class_distance"], found["label_accuracy_by_class"]) == (None, None, None)


def test_repeats_give_mean_and_error_of_the_mean() -> None:
    found = measure(*yardstick_for(50, 4))
    values = [row["frechet"] for row in found["repeats"]]
    assert len(set(values)) == 4
    assert found["frechet"] == pytest.approx(np.mean(values))
    assert found["standard_errors"]["frechet"] == pytest.approx(np.std(values, ddof=1) / 2)


def test_too_little_real_data_gives_no_floor() -> None:
    comparison, num, _ = yardstick_for(100, 1)
    reference = load_dataset("digits").held_out
    features = Features(map=coordinates(reference), classifier=None)

    def floor(num: int) -> dict[str, float | None] | None:
        found = draw(num, 4, seed=32)
        return Yardstick(features=features, reference=reference, real=comparison.real, other=found).floor

    found = measure(comparison, num, floor(4))
    assert found["frechet_floor"] is None and found["floor"]["precision"] is None, "no covariance, no neighbours"
    assert math.isfinite(found["floor"]["kid"]), "the kernel distance needs two"
    assert measure(comparison, num, floor(1))["floor"] is None
    assert measure(comparison, num, floor(8))["frechet_floor"] > 0


def test_jackknife_of_a_mean_is_the_textbook_error() -> None:
    x = draw(10, seed=33)
    rests = [float(torch.cat([x[:i], x[i + 1 :]]).mean()) for i in range(10)]
    assert jackknife(rests) == pytest.approx(float(x.std()) / math.sqrt(10))


def test_jackknife_of_the_distance_is_its_spread_over_fresh_samples() -> None:
    real = law(torch.zeros(6, dtype=F64), torch.eye(6, dtype=F64))
    c = [Comparison(real=draw(4000, 6, seed=900), generated=1.4 * draw(300, 6, seed=s)) for s in range(40)]
    spread = float(torch.tensor([frechet_of(real, k.moments) for k in c]).std())
    errors = [block_errors(k)["frechet"] for k in c[:10]]
    assert sum(errors) / len(errors) == pytest.approx(spread, rel=0.35)


def test_the_error_of_a_distance_does_not_know_the_order_of_the_samples() -> None:
    labels = torch.arange(400) // 40
    x = draw(400, 6, seed=5) + 3 * draw(10, 6, seed=6)[labels]
    mixed = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    real = draw(2000, 6, seed=7) + 3 * draw(10, 6, seed=6)[torch.arange(2000) % 10]
    by_class, shuffled = (
        block_errors(Comparison(real=real, generated=x[order], labels=labels[order], num_classes=10))["frechet"]
        for order in (torch.arange(400), mixed)
    )
    assert by_class == pytest.approx(shuffled, rel=0.5)


def test_spread_rows() -> None:
    assert spread_rows(torch.arange(10), 5).tolist() == [0, 2, 4, 6, 8]
    assert spread_rows(torch.arange(3), 5).tolist() == [0, 1, 2]
