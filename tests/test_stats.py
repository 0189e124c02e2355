"""Chapter 8's statistics: against scipy, by hand, and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from sto_lite import stats


def test_interval_is_students():
    values = [31.0, 32.5, 30.5, 33.0]
    found = stats.interval(values)
    low, high = scipy_stats.t.interval(0.95, 3, loc=np.mean(values), scale=scipy_stats.sem(values))
    assert (found.mean, found.low, found.high, found.seeds) == pytest.approx((31.75, low, high, 4))
    assert found.half == pytest.approx((high - low) / 2)


def test_one_seed_has_no_interval_and_none_is_refused():
    found = stats.interval([31.0])
    assert found.mean == 31 and math.isnan(found.low) and math.isnan(found.high) and found.seeds == 1
    with pytest.raises(ValueError, match="at least one value"):
        stats.interval([])


def test_prediction_interval_holds_the_next_run():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        *seen, new = rng.normal(30, 1, 5)
        found = stats.prediction_interval(seen)
        inside += found.low <= new <= found.high
    assert inside / 2000 == pytest.approx(0.95, abs=0.015)


def test_mcnemar_by_hand():
    # 5 images that only the second gets right, 1 that only the first does: p = 2 (1 + 6) / 2^6
    first = np.array([True] * 5 + [False] * 1 + [True] * 10 + [False] * 84)
    second = np.array([False] * 5 + [True] * 1 + [True] * 10 + [False] * 84)
    found = stats.mcnemar(first, second)
    assert found.difference == pytest.approx(4.0)
    assert found.p == pytest.approx(2 * 7 / 64)
    assert stats.mcnemar(first, first) == (0.0, 1.0)
    assert stats.mcnemar(second, first).difference == -found.difference


def test_bootstrap_agrees_with_the_normal_approximation():
    rng = np.random.default_rng(1)
    first, second = rng.binomial(3, 0.4, 3000) / 3, rng.binomial(3, 0.385, 3000) / 3
    d = first - second
    z = d.mean() / (d.std() / math.sqrt(len(d)))
    found = stats.bootstrap(first, second)
    assert found.difference == pytest.approx(100 * d.mean())
    assert found.p == pytest.approx(2 * scipy_stats.norm.sf(abs(z)), rel=0.15, abs=0.002)
    assert stats.bootstrap(second, first).p == pytest.approx(found.p, rel=0.15, abs=0.002)
    assert stats.bootstrap(np.ones(50), np.zeros(50)).p <= 2 / 10_000
    assert stats.bootstrap(first, first).p == 1


def record(predictions, labels, confidence=None):
    confidence = confidence or [1.0] * len(labels)
    return {"predictions": {"t": predictions}, "labels": {"t": labels}, "confidence": {"t": confidence}}


def test_image_test_takes_mcnemar_for_one_seed_and_the_bootstrap_for_more():
    a, b = record([0, 1, 1, 1], [0, 0, 0, 0]), record([0, 0, 0, 1], [0, 0, 0, 0])
    assert stats.image_test([a], [b], "t") == stats.mcnemar([0, 1, 1, 1], [0, 0, 0, 1])
    assert stats.image_test([a, a], [b, b], "t").difference == pytest.approx(50.0)


def test_class_errors():
    found = stats.class_errors(record([0, 1, 1, 0], [0, 0, 1, 1]), "t", 3)
    assert found[:2] == [50.0, 50.0] and math.isnan(found[2])


def test_calibration_error_by_hand():
    # bin [0.5, 0.6): confidence 0.5 twice, one right: gap 0; bin [0.9, 1]: 0.9 and 1.0, both wrong: gap 1.9 of 4
    one = record([0, 1, 1, 1], [0, 0, 0, 0], [0.5, 0.5, 0.9, 1.0])
    assert stats.calibration_error(one, "t", bins=10) == pytest.approx(100 * 1.9 / 4)
    perfect = record([0] * 100, [0] * 75 + [1] * 25, [0.75] * 100)
    assert stats.calibration_error(perfect, "t") == pytest.approx(0)


def test_standard_error():
    assert stats.standard_error(31.0, 3589) == pytest.approx(100 * math.sqrt(0.31 * 0.69 / 3589))
    assert round(stats.standard_error(31.0, 3589), 2) == 0.77


def test_seeds_needed_gives_the_power_it_promises():
    n = stats.seeds_needed(1.0, 0.8)
    rng = np.random.default_rng(0)
    found = [
        np.mean(scipy_stats.ttest_1samp(rng.normal(1.0, 0.8, (4000, m)), 0, axis=1).pvalue < 0.05)
        for m in (n - 1, n)
    ]
    assert found[0] < 0.81 and found[1] > 0.79
    assert stats.seeds_needed(-1.0, 0.8) == n < stats.seeds_needed(0.5, 0.8)
    assert stats.seeds_needed(3.0, 0.25) == stats.seeds_needed(5.0, 0.1) == 2  # scipy's far tail is NaN there
    for difference, deviation, message in ((0.0, 1.0, "zero"), (1.0, 0.0, "positive")):
        with pytest.raises(ValueError, match=message):
            stats.seeds_needed(difference, deviation)
    with pytest.raises(ValueError, match="more than 20"):
        stats.seeds_needed(0.01, 1.0, most=20)


def test_images_needed_gives_the_power_it_promises():
    n = stats.images_needed(1.0, 15.0)
    rng = np.random.default_rng(0)
    split = rng.multinomial(n, [0.08, 0.07, 0.85], 4000)
    a, b = split[:, 0], split[:, 1]
    z = (a - b) / np.sqrt(a + b)
    assert np.mean(z > 1.96) == pytest.approx(0.8, abs=0.03)
    with pytest.raises(ValueError, match="discordant"):
        stats.images_needed(5.0, 3.0)
