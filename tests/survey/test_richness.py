"""Chao2 and accumulation, against published figures and brute force."""

from __future__ import annotations

import numpy as np
import pytest

from camtrap_batch.survey.richness import accumulation, chao2


def test_barro_colorado() -> None:
    """vegan's `specpool(BCI)`: 225 species in 50 plots, 21 in one and 19 in two: 236.3732, s.e. 6.54361."""
    found = chao2(np.array([1] * 21 + [2] * 19 + [9] * 185), 50)
    assert found.observed == 225
    assert found.estimate == pytest.approx(236.3732, abs=1e-4)
    assert found.error == pytest.approx(6.54361, abs=1e-5)
    assert 225 < found.low < 236.37 < found.high


def test_no_species_at_two_stations() -> None:
    """The bias-corrected form: (m - 1)/m Q1 (Q1 - 1)/2 more."""
    found = chao2(np.array([1, 1, 1, 5, 6]), 10)
    assert found.estimate == pytest.approx(5 + 0.9 * 3)
    assert found.low > 5
    nothing_rare = chao2(np.array([5, 6]), 10)
    assert nothing_rare == (2, 2.0, 0.0, 2.0, 2.0)


def test_accumulation_is_the_mean_over_all_orders() -> None:
    rng = np.random.default_rng(2)
    seen = rng.random((12, 25)) < rng.random(25) * 0.5
    seen = seen[:, seen.any(axis=0)]
    expected, error = accumulation(seen.sum(axis=0), 12)
    orders = [rng.permutation(12) for _ in range(4000)]
    drawn = np.mean([(np.cumsum(seen[order], axis=0) > 0).sum(axis=1) for order in orders], axis=0)
    np.testing.assert_allclose(expected, drawn, atol=0.15)
    assert expected[-1] == pytest.approx(seen.shape[1])
    assert expected[0] == pytest.approx(seen.sum() / 12)
    assert (error >= 0).all()


def test_a_thousand_stations() -> None:
    expected, _ = accumulation(np.array([1, 2, 500, 1000]), 1000)
    assert np.isfinite(expected).all()
    assert (np.diff(expected) >= -1e-9).all()
