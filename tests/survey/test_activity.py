"""Activity and overlap, against direct sums, numerical integrals and known distributions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.special import iv

from camtrap_batch.survey.activity import GRID, concentration, density, interval, overlap

ANGLES = np.arange(GRID) * 2 * np.pi / GRID


Times = np.ndarray[tuple[int], np.dtype[np.float64]]


def drawn(center: float, kappa: float, n: int, seed: int = 1) -> Times:
    return np.random.default_rng(seed).vonmises(center, kappa, n) % (2 * np.pi)


def test_density_is_a_sum_of_kernels() -> None:
    """Against scipy's von Mises distribution, one kernel for each time."""
    times = drawn(5.5, 2, 80)
    kappa = concentration(times)
    direct = np.mean([stats.vonmises.pdf(ANGLES, kappa, loc=time) for time in times], axis=0)
    np.testing.assert_allclose(density(times), direct, atol=2e-4)
    assert density(times).mean() * 2 * np.pi == pytest.approx(1)


def test_concentration_is_taylors() -> None:
    """Of a large sample of a von Mises distribution: its formula with the true concentration."""
    n, kappa = 200_000, 3.0
    true = (3 * n * kappa**2 * iv(2, 2 * kappa) / (4 * np.sqrt(np.pi) * iv(0, kappa) ** 2)) ** 0.4
    assert concentration(drawn(1, kappa, n)) == pytest.approx(true, rel=0.02)


def test_midnight_is_no_edge() -> None:
    times = drawn(0, 4, 500)
    found = density(times)
    assert found[0] == pytest.approx(found[-1], rel=0.02)
    assert found.argmax() in {*range(20), *range(GRID - 20, GRID)}


def written_out(first: Times, second: Times, method: str) -> float:
    """Ridout & Linkie's estimators as they write them: sums of von Mises kernels, at the times themselves."""
    samples = (first, second)
    smoother = 0.8 if method == "Dhat1" else 1.0
    kappas = [concentration(times) / smoother for times in samples]

    def at(points: Times, which: int) -> Times:
        kernels = [stats.vonmises.pdf(points, kappas[which], loc=time) for time in samples[which]]
        return np.mean(kernels, axis=0)

    if method == "Dhat1":
        grid = np.arange(2048) * 2 * np.pi / 2048
        return float(np.minimum(at(grid, 0), at(grid, 1)).mean() * 2 * np.pi)
    ratios = [np.minimum(1, at(samples[own], 1 - own) / at(samples[own], own)) for own in (0, 1)]
    return float(np.mean([ratio.mean() for ratio in ratios]))


@pytest.mark.parametrize(("n", "method"), [(40, "Dhat1"), (49, "Dhat1"), (50, "Dhat4"), (200, "Dhat4")])
def test_overlap_is_the_formula(n: int, method: str) -> None:
    first, second = drawn(0.2, 2, n), drawn(1.5, 3, n + 30, 2)
    found = overlap(first, second, draws=2)
    assert found.method == method
    assert found.value == pytest.approx(written_out(first, second, method), abs=1e-4)


@pytest.mark.parametrize(("n", "bias", "alike"), [(40, 0.034, 0.841), (800, 0.013, 0.956)])
def test_overlap_of_known_distributions(n: int, bias: float, alike: float) -> None:
    """`bias`, and the overlap of two samples that are alike, are those of 200 pairs of samples."""
    first, second = stats.vonmises(2, loc=0), stats.vonmises(2, loc=1.5)
    true, _ = quad(lambda x: min(first.pdf(x), second.pdf(x)), -np.pi, np.pi)
    found = [overlap(drawn(0, 2, n, seed), drawn(1.5, 2, n, 100 + seed), draws=40) for seed in range(30)]
    assert all(one.low < one.value < one.high for one in found)
    values = np.array([one.value for one in found])
    error = values.std() / np.sqrt(len(found))
    assert values.mean() - true == pytest.approx(bias, abs=2.5 * error)
    assert sum(one.low < true < one.high for one in found) >= 23  # of 30; less happens in 1 % at 88 %
    same = [overlap(drawn(0, 2, n, seed), drawn(0, 2, n, 100 + seed), draws=2).value for seed in range(30)]
    assert np.mean(same) == pytest.approx(alike, abs=2.5 * np.std(same) / np.sqrt(30))
    apart = overlap(drawn(0, 20, n, 1), drawn(np.pi, 20, n, 3), draws=50)
    assert apart.value < 0.02


def test_too_few() -> None:
    with pytest.raises(ValueError, match="fewer than 20 events"):
        overlap(drawn(0, 2, 19), drawn(0, 2, 300))


def test_interval_holds_the_density() -> None:
    times = drawn(2, 1.5, 400)
    low, high = interval(times, draws=60)
    inside = (low <= density(times)) & (density(times) <= high)
    assert inside.mean() > 0.95


def test_identical_times_are_no_error() -> None:
    found = density(np.full(30, 1.0))
    assert np.isfinite(found).all()
    assert found.argmax() == round(1 / (2 * np.pi) * GRID)
