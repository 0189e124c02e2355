"""What measured errors allow one to say (chapter 8): intervals over seeds, paired tests, calibration, power."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sto_lite.records import Record


class Interval(NamedTuple):
    """A mean over seeds with a two-sided confidence interval by Student's t; low and high are NaN for one seed."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2


class Paired(NamedTuple):
    """Difference of two error rates in points, first minus second, and its two-sided p-value."""

    difference: float
    p: float


def interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean and confidence interval of independent values, such as one error a seed; at least one value."""
    from scipy.stats import t

    x = np.asarray(values, float)
    if not len(x):
        raise ValueError("an interval needs at least one value")
    if len(x) == 1:
        return Interval(float(x[0]), math.nan, math.nan, 1)
    half = float(t.ppf((1 + level) / 2, len(x) - 1)) * x.std(ddof=1) / math.sqrt(len(x))
    return Interval(float(x.mean()), float(x.mean() - half), float(x.mean() + half), len(x))


def prediction_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Where one further run of the same kind would fall; wider than `interval`, since one run scatters."""
    found = interval(values, level)
    half = found.half * math.sqrt(1 + found.seeds)
    return Interval(found.mean, found.mean - half, found.mean + half, found.seeds)


def mcnemar(first_wrong: ArrayLike, second_wrong: ArrayLike) -> Paired:
    """McNemar's exact test of two networks on the same images: only images that one of them alone gets right count.

    Args:
        first_wrong: (N,) booleans, the images that the first network gets wrong.
        second_wrong: (N,) booleans of the second.

    If both are equally good, each image that separates them falls to either side like a fair coin.
    """
    from scipy.stats import binomtest

    one, two = np.asarray(first_wrong, bool), np.asarray(second_wrong, bool)
    only_first, only_second = int((one & ~two).sum()), int((two & ~one).sum())
    p = binomtest(only_first, only_first + only_second).pvalue if only_first + only_second else 1.0
    return Paired(100 * (only_first - only_second) / len(one), float(p))


def bootstrap(
    first_wrong: ArrayLike, second_wrong: ArrayLike, resamples: int = 10_000, seed: int = 0
) -> Paired:
    """Paired bootstrap over images, for errors that are already averaged over seeds.

    Args:
        first_wrong: (N,) shares of the first method's seeds that got an image wrong.
        second_wrong: (N,) shares of the second's.
        resamples: sets of N images drawn with replacement.
        seed: of the draws.

    The p-value is twice the share of resamples whose difference has the other sign (or is zero), at least
    2 / resamples and at most 1.
    """
    d = np.asarray(first_wrong, float) - np.asarray(second_wrong, float)
    values, counts = np.unique(np.round(d, 9), return_counts=True)  # sums of thirds that ought to be 0 are
    draws = np.random.default_rng(seed).multinomial(len(d), counts / len(d), resamples) @ values
    draws = np.round(draws, 6)
    tail = min((draws <= 0).mean(), (draws >= 0).mean())
    return Paired(100 * float(d.mean()), float(min(1.0, 2 * max(tail, 1 / resamples))))


def wrong(record: Record, split: str) -> np.ndarray:
    """(N,) booleans: which images of a split the deployed network gets wrong."""
    return np.asarray(record["predictions"][split]) != np.asarray(record["labels"][split])


def image_test(first: Sequence[Record], second: Sequence[Record], split: str) -> Paired:
    """Two methods on the same images: McNemar's test for one seed, the paired bootstrap for more."""
    one, two = ([wrong(record, split) for record in records] for records in (first, second))
    if len(one) == len(two) == 1:
        return mcnemar(one[0], two[0])
    return bootstrap(np.mean(one, 0), np.mean(two, 0))


class ImageError(NamedTuple):
    """Standard error, from the choice of the test images, of a difference of two methods, in points.

    measured: with as many seeds as there are. one: with one pair of runs. limit: with any number of seeds.
    """

    measured: float
    one: float
    limit: float


def image_error(first_wrong: ArrayLike, second_wrong: ArrayLike) -> ImageError:
    """How far the choice of the test images moves a difference of two methods, and how far more seeds help.

    An image's difference scatters from seed to seed. Averaging over seeds removes that part, and leaves the images on
    which the methods themselves differ.

    Args:
        first_wrong: (seeds, N) booleans, the images that each run of the first method gets wrong.
        second_wrong: (seeds, N) of the second, in the same order of seeds; at least two seeds.
    """
    d = np.asarray(first_wrong, float) - np.asarray(second_wrong, float)
    seeds, images = d.shape
    if seeds < 2:
        raise ValueError("with one seed, an image's scatter from seed to seed is unknown")
    scatter = float(d.var(0, ddof=1).mean())  # of one image over seeds
    between = max(0.0, float(d.mean(0).var(ddof=1)) - scatter / seeds)
    parts = (scatter / seeds, scatter, 0.0)
    return ImageError(*(100 * math.sqrt((between + part) / images) for part in parts))


def crossed_interval(
    differences: ArrayLike, level: float = 0.95, resamples: int = 4_000, seed: int = 0
) -> Interval:
    """Interval of a mean over seeds and images, both drawn anew (the pigeonhole bootstrap, Owen 2007), in points.

    Args:
        differences: (seeds, N), for instance first wrong minus second wrong, one row a seed.
        level: of the interval.
        resamples: draws of seeds and, independently, of images.
        seed: of the draws.
    """
    d = np.asarray(differences, float)
    seeds, images = d.shape
    rng = np.random.default_rng(seed)
    rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds
    columns = rng.multinomial(images, np.full(images, 1 / images), resamples) / images
    means = ((rows @ d) * columns).sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(100 * float(d.mean()), 100 * float(low), 100 * float(high), seeds)


def standard_error(error: float, images: int) -> float:
    """Standard error of an error rate (%) from the choice of the test images, sqrt(e (1 - e) / n), in points."""
    return 100 * math.sqrt(error / 100 * (1 - error / 100) / images)


def class_errors(record: Record, split: str, classes: int) -> list[float]:
    """Error (%) among the images of each class; NaN for a class without images."""
    missed = wrong(record, split)
    masks = [np.asarray(record["labels"][split]) == c for c in range(classes)]
    return [100 * float(missed[mask].mean()) if mask.any() else math.nan for mask in masks]


def calibration_error(record: Record, split: str, bins: int = 15) -> float:
    """Expected calibration error in points (Guo et al. 2017): mean gap of accuracy and confidence over bins.

    Bins are of equal width and weighted by their images. Confidence is the probability of the predicted class.
    """
    confidence, right = np.asarray(record["confidence"][split]), ~wrong(record, split)
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(right[which == b].sum() - confidence[which == b].sum()) for b in range(bins)]
    return 100 * float(sum(gaps)) / len(right)


def seeds_needed(
    difference: float, deviation: float, power: float = 0.8, level: float = 0.95, most: int = 10_000
) -> int:
    """Paired seeds after which a true difference is found with the given power, by a two-sided paired t-test.

    Args:
        difference: true mean difference in points.
        deviation: standard deviation of the paired difference from seed to seed, in points.
        power: probability to find it.
        level: one minus the false-alarm rate.
        most: give up there.

    Raises:
        ValueError: more than `most` would be needed; the difference is zero; or the deviation is not positive.
    """
    from scipy.stats import nct, t

    if difference == 0:
        raise ValueError("no number of seeds finds a difference of zero")
    if deviation <= 0:
        raise ValueError(f"the standard deviation is positive; {deviation} is not")
    for n in range(2, most + 1):
        bar = t.ppf((1 + level) / 2, n - 1)
        shift = abs(difference) / deviation * math.sqrt(n)
        # Far from zero scipy gives NaN for the other tail, which is nothing there.
        if nct.sf(bar, n - 1, shift) + np.nan_to_num(nct.cdf(-bar, n - 1, shift)) >= power:
            return n
    raise ValueError(f"more than {most} seeds are needed")


def images_needed(difference: float, discordant: float, power: float = 0.8, level: float = 0.95) -> int:
    """Test images after which two given networks are told apart, by the normal approximation to McNemar's test.

    Args:
        difference: true difference of the two error rates in points.
        discordant: share (%) of images that exactly one of the two gets right.
        power: probability to tell them apart.
        level: one minus the false-alarm rate.
    """
    from scipy.stats import norm

    if not 0 < difference <= discordant:
        raise ValueError("the difference is above 0, and at most the discordant share")
    d, q = difference / 100, discordant / 100
    root = norm.ppf((1 + level) / 2) * math.sqrt(q) + norm.ppf(power) * math.sqrt(q - d * d)
    return math.ceil((root / d) ** 2)
