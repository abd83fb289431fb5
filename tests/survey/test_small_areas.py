"""Corrected totals of single locations, from a sample of the whole."""

from __future__ import annotations

import numpy as np
import pytest

from camtrap_batch.survey.small_areas import Totals, Units, location_totals

N, LOCATIONS = 1200, 12


def totals(errors: np.ndarray, size: int = 240, seed: int = 0) -> tuple[Totals, np.ndarray]:
    """Of sequences labelled 0 or 1, truly so but where `errors` says, (N,); and what is true."""
    random = np.random.default_rng(seed)
    location = np.arange(N) % LOCATIONS
    label = (random.random(N) < 0.3).astype(np.int64)
    truth = np.where(errors, 1 - label, label)
    sample = random.choice(N, size, replace=False)
    known = np.zeros(N, bool)
    known[sample] = True
    units = Units(location, label, np.full(N, 0.9), np.ones(N), known, sample, truth[sample])
    found = location_totals(units, sample, np.full(size, N / size), LOCATIONS, 2)
    return found, np.bincount(location * 2 + truth, minlength=LOCATIONS * 2).reshape(LOCATIONS, 2)


def test_what_everybody_looked_at_is_known() -> None:
    errors = np.random.default_rng(1).random(N) < 0.2
    found, truth = totals(errors, size=N)
    assert (found.value == truth).all()
    assert (found.low == truth).all()
    assert (found.high == truth).all()


def test_errors_that_are_alike_everywhere() -> None:
    held, off = [], []
    for seed in range(20):
        errors = np.random.default_rng(seed + 50).random(N) < 0.15
        found, truth = totals(errors, seed=seed)
        held.append(((found.low <= truth) & (truth <= found.high)).mean())
        off.append((found.value - truth).mean())
    assert 0.93 <= np.mean(held) <= 1
    assert abs(np.mean(off)) < 1.5, "as many too high as too low"


def test_errors_of_one_location_widen_all_intervals() -> None:
    random = np.random.default_rng(3)
    alike = random.random(N) < 0.15
    apart = random.random(N) < np.where(np.arange(N) % LOCATIONS < 2, 0.8, 0.02)
    widths = [np.mean(found.high - found.low) for found, _ in (totals(alike), totals(apart))]
    assert widths[1] > 1.5 * widths[0]
    found, truth = totals(apart)
    assert ((found.low <= truth) & (truth <= found.high)).mean() > 0.85


def test_a_label_that_the_sample_has_too_few_of_borrows_from_others() -> None:
    n = 400
    location, label = np.zeros(n, np.int64), np.zeros(n, np.int64)
    label[:3] = 2  # three sequences of a rare label, none of which was drawn
    sample = np.arange(100, 200)
    truth = label.copy()
    truth[150:160] = 1
    known = np.zeros(n, bool)
    known[sample] = True
    units = Units(location, label, np.full(n, np.nan), np.ones(n), known, sample, truth[sample])
    found = location_totals(units, sample, np.full(100, 4.0), 1, 3)
    assert found.value[0, 2] == pytest.approx(3 * 0.9, abs=0.01)
    assert found.value[0, 1] == pytest.approx(10 + 300 * 0.1, abs=0.5)
    assert found.low[0, 1] >= 10, "what was seen is there"
