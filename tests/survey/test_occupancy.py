"""Occupancy, against published figures, closed forms and simulated surveys."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from camtrap_batch.survey.occupancy import Doubles, fit_occupancy


def history(detections: list[int], occasions: int) -> Doubles:
    """A row of this many detections in this many occasions, for each station."""
    return np.array([[1.0] * n + [0.0] * (occasions - n) for n in detections])


def test_blue_ridge_salamanders() -> None:
    """MacKenzie et al. (2006), Occupancy estimation and modeling, model psi(.)p(.).

    39 sites, 5 surveys, 18 sites with 30 detections: psi 0.5946, p 0.2587, -2 log L 161.76.
    """
    found = fit_occupancy(history([1] * 10 + [2] * 4 + [3] * 4 + [0] * 21, 5))
    assert found.naive == pytest.approx(18 / 39)
    assert found.psi == pytest.approx(0.5946, abs=1e-4)
    assert found.p == pytest.approx(0.2587, abs=1e-4)
    assert -2 * found.log_likelihood == pytest.approx(161.76, abs=0.02)
    assert found.psi_low < 0.5946 - 0.12 < 0.5946 + 0.12 < found.psi_high
    assert found.reason is None
    assert found.warnings == ()


def test_the_interval_is_where_the_profile_falls_by_chi_square() -> None:
    """Against a brute search over a grid of both parameters."""
    seen = history([1] * 10 + [2] * 4 + [3] * 4 + [0] * 21, 5)
    found = fit_occupancy(seen)
    psi, p = np.linspace(0.2, 0.9999, 1600), np.linspace(0.05, 0.6, 1100)
    d = seen.sum(axis=1)
    likelihood = np.zeros((len(psi), len(p)))
    for n, number in zip(*np.unique(d, return_counts=True), strict=True):
        of_site = psi[:, None] * p**n * (1 - p) ** (5 - n) + (n == 0) * (1 - psi[:, None])
        likelihood += number * np.log(of_site)
    profile = likelihood.max(axis=1)
    inside = psi[2 * (likelihood.max() - profile) <= 3.8415]
    assert found.psi_low == pytest.approx(inside[0], abs=0.002)
    assert found.psi_high == pytest.approx(inside[-1], abs=0.002)
    assert found.log_likelihood == pytest.approx(likelihood.max(), abs=1e-3)


def test_missing_occasions_and_effort() -> None:
    """Occasions without a camera say nothing; effort of one value is none; half an occasion detects less."""
    seen = history([1] * 10 + [2] * 4 + [3] * 4 + [0] * 21, 5)
    wider = np.column_stack([seen, np.full(39, np.nan)])
    assert fit_occupancy(wider).psi == pytest.approx(fit_occupancy(seen).psi)
    same = fit_occupancy(seen, np.full(seen.shape, 7.0))
    assert same.psi == pytest.approx(0.5946, abs=1e-4)
    rng = np.random.default_rng(4)
    stations, occasions = 400, 12
    effort = rng.uniform(0.5, 7, (stations, occasions))
    there = rng.random(stations) < 0.4
    drawn = (rng.random(effort.shape) < -np.expm1(-0.06 * effort)) & there[:, None]
    found = fit_occupancy(drawn.astype(float), effort)
    assert found.psi_low < 0.4 < found.psi_high
    assert found.p == pytest.approx(-np.expm1(-0.06 * effort.mean()), abs=0.03)


def test_intervals_cover() -> None:
    """Of simulated surveys, 95 % intervals hold the truth in nearly as many."""
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(150):
        there = rng.random(60) < 0.5
        drawn = (rng.random((60, 6)) < 0.3) & there[:, None]
        found = fit_occupancy(drawn.astype(float))
        held += found.psi_low <= 0.5 <= found.psi_high
    assert 0.9 <= held / 150 <= 0.99


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (np.zeros((0, 4)), "no station has an occasion"),
        (np.zeros((20, 4)), "no detection"),
        (np.ones((20, 1)), "no station has two occasions"),
        (history([1] * 8 + [0] * 12, 4), "no station has two detections"),
        (history([3] + [0] * 12, 4), "detected at only one station"),
    ],
)
def test_not_fitted_where_its_conditions_are_not_met(seen: Doubles, reason: str) -> None:
    found = fit_occupancy(seen)
    assert found.reason is not None
    assert found.reason.startswith(reason)
    assert np.isnan(found.psi)


def test_warnings() -> None:
    thin = fit_occupancy(history([2, 1, 1, 0, 0, 0], 8))
    assert any("fewer than 10" in text for text in thin.warnings)
    assert any("fewer than 5" in text for text in thin.warnings)
    everywhere = fit_occupancy(history([3] * 30, 5))
    assert everywhere.psi > 0.99
    assert everywhere.psi_high == 1
    rare = fit_occupancy(history([2] + [1] * 9 + [0] * 30, 30))
    assert any("far too high" in text for text in rare.warnings)


def test_the_likelihood_is_that_of_all_histories() -> None:
    """The probabilities of all histories of a station add up to one."""
    from camtrap_batch.survey.occupancy import _negative_log_likelihood

    effort = np.array([[1.0, 0.5, 2.0]])
    total = 0.0
    for cells in itertools.product([False, True], repeat=3):
        total += np.exp(-_negative_log_likelihood(np.array([cells]), effort)(0.3, -0.4))
    assert total == pytest.approx(1)
