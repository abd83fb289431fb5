from __future__ import annotations

import numpy as np
import pytest

from camtrap_batch.model.calibration import (
    HIGHEST,
    LOWEST,
    calibrated,
    cross_calibrated,
    expected_calibration_error,
    fit_temperature,
    reliability,
)


def honest(n: int = 20_000, k: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the true distribution of the class."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (n, k)).astype(np.float32)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (probs.cumsum(1) < random.random((n, 1))).sum(1).clip(0, k - 1)
    return logits, truth


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_finds_the_temperature(factor: float) -> None:
    logits, truth = honest()
    temperature = fit_temperature(logits * np.float32(factor), truth)
    assert temperature == pytest.approx(factor, rel=0.05)
    probs = calibrated(logits * np.float32(factor), temperature)
    assert expected_calibration_error(probs, truth) < 0.015


def test_temperature_is_the_minimum_of_the_likelihood() -> None:
    logits, truth = honest(300)

    def loss(temperature: float) -> float:
        return -float(np.log(calibrated(logits, temperature)[np.arange(300), truth]).mean())

    best = fit_temperature(logits, truth)
    assert loss(best) < min(loss(best * 0.97), loss(best * 1.03))


def test_temperature_stays_in_its_bounds() -> None:
    right = np.eye(3, dtype=np.float32)
    assert fit_temperature(right, np.arange(3)) == pytest.approx(LOWEST)
    assert fit_temperature(right, np.array([1, 2, 0])) == pytest.approx(HIGHEST)
    with pytest.raises(ValueError, match="no image"):
        fit_temperature(right[:0], np.arange(0))


def test_calibrated_is_a_distribution_and_keeps_the_order() -> None:
    logits = np.random.default_rng(1).normal(0, 300, (50, 4)).astype(np.float32)
    probs = calibrated(logits, 2.5)
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-5)
    assert (probs.argmax(1) == logits.argmax(1)).all()


def test_calibration_error_by_hand() -> None:
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], np.float32)
    truth = np.array([0, 1, 1, 1])
    # Bins of 1/15: {0.9, 0.9}: accuracy 0.5; {0.6}: 1; {0.8}: 1
    expected = (2 * 0.4 + 0.4 + 0.2) / 4
    assert expected_calibration_error(probs, truth) == pytest.approx(expected, abs=1e-6)


def test_reliability_has_every_image_once() -> None:
    logits, truth = honest(1000)
    rows = reliability(calibrated(logits, 1.0), truth)
    assert sum(row["n"] for row in rows) == 1000
    for row in rows:
        assert row["lower"] <= row["confidence"] <= row["upper"] + 1e-6
        assert row["upper"] - row["lower"] == pytest.approx(1 / 15)
    certain = reliability(np.array([[1.0, 0.0]], np.float32), np.array([0]))
    assert certain[0]["upper"] == 1.0


def test_each_camera_gets_the_temperature_of_the_others() -> None:
    logits, truth = honest(4000)
    logits[:2000] *= 3  # the first camera's are three times as sure as they should be
    places = ["a"] * 2000 + ["b"] * 2000
    probs = cross_calibrated(logits, truth, places)
    np.testing.assert_allclose(
        probs[:2000], calibrated(logits[:2000], fit_temperature(logits[2000:], truth[2000:])), rtol=1e-6
    )
    np.testing.assert_allclose(
        probs[2000:], calibrated(logits[2000:], fit_temperature(logits[:2000], truth[:2000])), rtol=1e-6
    )
    # Fitted on the images themselves, the error of two so different cameras would look smaller.
    fitted = calibrated(logits, fit_temperature(logits, truth))
    assert expected_calibration_error(probs, truth) > 2 * expected_calibration_error(fitted, truth)


def test_many_cameras_calibrate_as_well_as_all_images() -> None:
    logits, truth = honest(4000)
    places = [f"L{number % 40}" for number in range(4000)]
    probs = cross_calibrated(2 * logits, truth, places)
    np.testing.assert_allclose(probs, calibrated(2 * logits, 2.0), atol=0.05)
    one = cross_calibrated(logits, truth, ["a"] * 4000)
    np.testing.assert_allclose(one, calibrated(logits, fit_temperature(logits, truth)))
