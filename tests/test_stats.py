"""Chapter 8's statistics: against scipy, by hand, and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from sto_lite import stats
from sto_lite.blocks import Block, compare, dunnett_quantile, fit_block, holm


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
    assert stats.standard_error(31.0, 3589) == pytest.approx(100 * math.sqrt(0.31 * 0.69 / 3589))
    assert round(stats.standard_error(31.0, 3589), 2) == 0.77


def test_prediction_interval_holds_the_next_run():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        *seen, new = rng.normal(30, 1, 5)
        found = stats.prediction_interval(seen)
        inside += found.low <= new <= found.high
    assert inside / 2000 == pytest.approx(0.95, abs=0.015)
    half = 12.7062 * math.sqrt(2) * math.sqrt(1 + 1 / 2)  # t of one degree of freedom, two runs
    assert stats.prediction_interval([29.0, 31.0]).half == pytest.approx(half, abs=1e-3)


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
    # Five images +1/3 and one −2/3: a draw with the latter twice is a tie, also where thirds are no fractions of two.
    few = stats.bootstrap([1 / 3, 2 / 3, 1, 1 / 3, 1, 0], [0, 1 / 3, 2 / 3, 0, 2 / 3, 2 / 3], 200_000)
    assert few.p == pytest.approx(2 * (1 - (5 / 6) ** 6 - (5 / 6) ** 5), abs=0.01)


def test_image_error_by_simulation():
    """Methods that differ on some images, and runs that scatter on all: more seeds remove the scatter alone."""
    rng = np.random.default_rng(0)
    images = 40_000
    hard = rng.uniform(0, 1, images)
    easier = np.clip(hard - 0.1 * rng.integers(0, 2, images), 0, 1)
    first, second = (rng.uniform(size=(6, images)) < p for p in (hard, easier))
    found = stats.image_error(first, second)
    true = 100 * (hard - easier).std() / math.sqrt(images)
    assert found.limit == pytest.approx(true, rel=0.1) and found.limit < found.measured < found.one
    noise = found.one**2 - found.limit**2
    assert found.measured**2 - found.limit**2 == pytest.approx(noise / 6)
    one_pair = 100 * np.std(first[0].astype(float) - second[0]) / math.sqrt(images)
    assert found.one == pytest.approx(one_pair, rel=0.03)
    with pytest.raises(ValueError, match="one seed"):
        stats.image_error(first[:1], second[:1])


def test_crossed_interval_covers_seeds_and_images():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        luck = (0.05, (8, 1)), (0.3, (1, 50)), (0.3, (8, 50))
        d = 0.1 + sum(scale * rng.normal(size=size) for scale, size in luck)
        found = stats.crossed_interval(d, resamples=400)
        inside += found.low <= 10 <= found.high
    assert inside / 200 > 0.9
    same = stats.crossed_interval(np.ones((3, 40)))
    assert (same.mean, same.low, same.high, same.seeds) == pytest.approx((100, 100, 100, 3))


def drawn(rows=5, seeds=4, missing=(), noise=0.5):
    rng = np.random.default_rng(2)
    effects, luck = rng.normal(60, 1, rows), rng.normal(0, 1, seeds)
    cells = [(m, s) for m in range(rows) for s in range(seeds) if (m, s) not in missing]
    errors = {f"m{m}": {} for m in range(rows)}
    for m, s in cells:
        errors[f"m{m}"][s] = effects[m] + luck[s] + noise * rng.normal()
    return errors


@pytest.mark.parametrize("missing", [(), {(0, 3), (2, 1), (4, 0)}], ids=["full", "with gaps"])
def test_the_block_is_statsmodels_two_way_fit(missing):
    pandas = pytest.importorskip("pandas")
    formula = pytest.importorskip("statsmodels.formula.api")
    errors = drawn(missing=missing)
    cells = [(m, s, e) for m, row in errors.items() for s, e in row.items()]
    frame = pandas.DataFrame(cells, columns=["method", "seed", "error"])
    fit = formula.ols("error ~ C(method) + C(seed)", frame).fit()
    block = fit_block(errors)
    assert block.freedom == fit.df_resid and block.deviation**2 == pytest.approx(fit.mse_resid)
    for m in range(1, 5):
        (found,) = compare(block, [("m0", f"m{m}")])
        low, high = fit.conf_int().loc[f"C(method)[T.m{m}]"]
        assert found.alone.mean == pytest.approx(-fit.params[f"C(method)[T.m{m}]"])
        assert (found.alone.low, found.alone.high) == pytest.approx((-high, -low))
        assert found.p == pytest.approx(fit.pvalues[f"C(method)[T.m{m}]"]) and found.wide == found.alone


def test_two_rows_are_the_paired_interval():
    errors = drawn(rows=2)
    (found,) = compare(fit_block(errors), [("m0", "m1")])
    by_hand = stats.interval([errors["m0"][s] - errors["m1"][s] for s in range(4)])
    assert found.alone == pytest.approx(by_hand) and found.wide == pytest.approx(by_hand)


@pytest.mark.parametrize(("size", "freedom"), [(3, 10), (4, 15)])
def test_dunnetts_quantile_is_scipys(size, freedom):
    half = np.full((4, 4), 0.5) + np.eye(4) / 2
    groups = np.random.default_rng(0).normal(0, 1, (5, size))
    found = scipy_stats.dunnett(*groups[1:], control=groups[0])
    interval = found.confidence_interval(0.95)
    spread = math.sqrt(groups.var(1, ddof=1).mean() * 2 / size)
    quantile = (interval.high - interval.low)[0] / 2 / spread
    assert dunnett_quantile(half, freedom) == pytest.approx(quantile, abs=0.01)


def test_an_adjusted_p_value_is_where_the_wide_interval_ends_at_zero_and_comes_again():
    block, pairs = fit_block(drawn(noise=1.0)), [("m0", f"m{m}") for m in range(1, 5)]
    found = compare(block, pairs)
    assert found == compare(block, pairs)
    ends = compare(block, pairs, level=1 - found[0].p)[0].wide
    assert min(abs(ends.low), abs(ends.high)) < 0.01


def test_holm_is_statsmodels_and_its_intervals_agree_with_it():
    multiple = pytest.importorskip("statsmodels.stats.multitest")
    rng = np.random.default_rng(0)
    for _ in range(50):
        t = rng.normal(0, 2.5, 5)
        ps = 2 * scipy_stats.t.sf(np.abs(t), 8)
        adjusted, wide = holm(ps, 8)
        assert adjusted == pytest.approx(multiple.multipletests(ps, method="holm")[1])
        assert ((np.abs(t) > wide) == (adjusted < 0.05)).all()


def test_a_family_without_a_common_row_is_holms():
    block = fit_block(drawn(rows=4))
    one, two = compare(block, [("m0", "m1"), ("m2", "m3")])
    wider = scipy_stats.t.ppf(1 - 0.05 / 4, block.freedom) / scipy_stats.t.ppf(0.975, block.freedom)
    assert max(one.wide.half, two.wide.half) == pytest.approx(one.alone.half * wider)


def test_a_block_that_says_nothing():
    assert fit_block({}) is None and fit_block({"a": {0: 1.0}, "b": {0: 2.0}}) is None
    block = fit_block({**drawn(rows=2), "alone": {0: 50.0}, "none": {}})
    assert isinstance(block, Block) and block.rows == ("m0", "m1", "alone")
    assert block.freedom == 3 and block.seeds(("m0", "alone")) == 1
    assert compare(block, []) == []
    (sure,) = compare(fit_block({"a": {0: 1.0, 1: 2.0}, "b": {0: 0.0, 1: 1.0}}), [("a", "b")])
    level = {row: dict.fromkeys(range(3), 10.1) for row in "abc"}
    assert [one.p for one in compare(fit_block(level), [("a", "b"), ("a", "c")])] == [1, 1]
    assert sure.p < 1e-9 and (sure.wide.mean, sure.wide.half) == pytest.approx((1, 0), abs=1e-9)


def record(predictions, labels, confidence=None):
    confidence = confidence or [1.0] * len(labels)
    return {"predictions": {"t": predictions}, "labels": {"t": labels}, "confidence": {"t": confidence}}


def test_image_test_takes_mcnemar_for_one_seed_and_the_bootstrap_for_more():
    a, b = record([0, 1, 1, 1], [0, 0, 0, 0]), record([0, 0, 0, 1], [0, 0, 0, 0])
    assert stats.image_test([a], [b], "t") == stats.mcnemar([0, 1, 1, 1], [0, 0, 0, 1])
    assert stats.image_test([a, a], [b, b], "t").difference == pytest.approx(50.0)
    assert stats.image_test([a, b], [b, b], "t").difference == pytest.approx(25.0), "of all seeds"


def test_class_errors():
    found = stats.class_errors(record([0, 1, 1, 0], [0, 0, 1, 1]), "t", 3)
    assert found[:2] == [50.0, 50.0] and math.isnan(found[2])


def test_calibration_error_by_hand():
    # bin [0.5, 0.6): confidence 0.5 twice, one right: gap 0; bin [0.9, 1]: 0.9 and 1.0, both wrong: gap 1.9 of 4
    one = record([0, 1, 1, 1], [0, 0, 0, 0], [0.5, 0.5, 0.9, 1.0])
    assert stats.calibration_error(one, "t", bins=10) == pytest.approx(100 * 1.9 / 4)
    perfect = record([0] * 100, [0] * 75 + [1] * 25, [0.75] * 100)
    assert stats.calibration_error(perfect, "t") == pytest.approx(0)


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
    assert stats.images_needed(10.0, 12.0) == 92  # (1.95996 √0.12 + 0.84162 √0.11)² / 0.1²
    with pytest.raises(ValueError, match="discordant"):
        stats.images_needed(5.0, 3.0)
