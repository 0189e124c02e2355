"""One analysis of a whole block of runs, methods × seeds, with one error variance (chapter 8).

With three seeds a row's own variance is luck. If all methods scatter alike, the whole block tells how much, with more
degrees of freedom. Error of method m with seed s: y = mu + method_m + seed_s + noise, fitted by least squares; cells
may be missing. A seed's effect cancels in a difference of two methods, so runs are compared in pairs.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sto_lite.stats import Interval

Errors = Mapping[str, Mapping[Any, float]]  # errors by row and by what pairs the runs, such as the seed
Pair = tuple[str, str]  # two rows; a difference is the first one's error minus the second one's


class Comparison(NamedTuple):
    """A difference of two rows, in points, from a whole block.

    alone: its own two-sided interval. wide: the interval that holds for all comparisons of its family together, by
    which a verdict is given. p: adjusted for the family. The `seeds` of both intervals are those that the rows share.
    """

    alone: Interval
    wide: Interval
    p: float


@dataclass(frozen=True)
class Block:
    """A fitted block.

    rows: names, (M,). effects: (M,) least-squares effects of the rows. covariance: (M, M), to be multiplied by the
    variance. deviation: of the noise, in points. freedom: its degrees of freedom. keys: what each row has runs of.
    """

    rows: tuple[str, ...]
    effects: np.ndarray
    covariance: np.ndarray
    deviation: float
    freedom: int
    keys: tuple[frozenset[Hashable], ...]

    def contrast(self, pair: Pair) -> np.ndarray:
        """(M,) weights of a difference: +1 for the first row, −1 for the second."""
        weights = np.zeros(len(self.rows))
        weights[self.rows.index(pair[0])], weights[self.rows.index(pair[1])] = 1.0, -1.0
        return weights

    def seeds(self, pair: Pair) -> int:
        """How many seeds two rows have in common."""
        one, two = (self.keys[self.rows.index(row)] for row in pair)
        return len(one & two)


def fit_block(errors: Errors) -> Block | None:
    """Least squares of rows and seeds; None where nothing is left to estimate the noise from.

    errors: in % by row and seed; rows without any are left out, cells may be missing.
    """
    rows = tuple(row for row, cells in errors.items() if cells)
    keys = list(dict.fromkeys(key for row in rows for key in errors[row]))
    cells = [(m, keys.index(key), error) for m, row in enumerate(rows) for key, error in errors[row].items()]
    design = np.zeros((len(cells), len(rows) + len(keys)))
    values = np.zeros(len(cells))
    for i, (m, s, error) in enumerate(cells):
        design[i, m] = design[i, len(rows) + s] = 1
        values[i] = error
    if not cells or (freedom := len(cells) - int(np.linalg.matrix_rank(design))) < 1:
        return None
    inverse = np.linalg.pinv(design)
    found = inverse @ values
    rest = values - design @ found
    deviation = math.sqrt(float(rest @ rest) / freedom)
    covariance = (inverse @ inverse.T)[: len(rows), : len(rows)]
    have = tuple(frozenset(errors[row]) for row in rows)
    return Block(rows, found[: len(rows)], covariance, deviation, freedom, have)


def compare(
    block: Block, pairs: Sequence[Pair], level: float = 0.95, dunnett: bool = True
) -> list[Comparison]:
    """Differences with adjusted intervals: Dunnett's (1955) if all pairs share a row, Holm's (1979) else.

    pairs: the family of comparisons, each once and with a seed in common. level: that all of Dunnett's intervals hold
    together; Holm's agree with his tests. dunnett: False takes Holm's in any case.
    """
    from scipy.stats import t

    if not pairs:
        return []
    weights = np.array([block.contrast(pair) for pair in pairs])
    differences = np.round(weights @ block.effects, 9)
    covariance = weights @ block.covariance @ weights.T
    errors = np.round(block.deviation * np.sqrt(np.diag(covariance)), 9)
    with np.errstate(divide="ignore", invalid="ignore"):  # a block without noise
        ts = np.nan_to_num(np.abs(differences) / errors, nan=0.0, posinf=math.inf)
    alone = float(t.ppf((1 + level) / 2, block.freedom))
    shared = set.intersection(*(set(pair) for pair in pairs))
    if len(pairs) > 1 and shared and dunnett:
        scale = np.sqrt(np.diag(covariance))
        correlation = covariance / np.outer(scale, scale)
        wide = np.full(len(pairs), dunnett_quantile(correlation, block.freedom, level))
        ps = np.array([1 - within(x, correlation, block.freedom) if math.isfinite(x) else 0.0 for x in ts])
    else:
        ps, wide = holm(2 * t.sf(ts, block.freedom), block.freedom, level)
    found = []
    for d, e, w, p, pair in zip(differences.tolist(), errors.tolist(), wide, ps, pairs, strict=True):
        seeds = block.seeds(pair)
        near, far = (Interval(d, d - half * e, d + half * e, seeds) for half in (alone, float(w)))
        found.append(Comparison(near, far, float(p)))
    return found


def within(bound: float, correlation: np.ndarray, freedom: int) -> float:
    """Probability that every one of several correlated t-values lies within ± bound."""
    from scipy.stats import multivariate_t

    side = np.full(len(correlation), bound)
    distribution = multivariate_t(shape=correlation, df=freedom, allow_singular=True)
    return float(distribution.cdf(side, lower_limit=-side, maxpts=20_000, random_state=0))


def dunnett_quantile(correlation: np.ndarray, freedom: int, level: float = 0.95) -> float:
    """The bound within which all t-values lie with the probability `level` (Dunnett 1955).

    correlation: (K, K) of the K comparisons; 1/2 off the diagonal for K rows against one in a full block. freedom: of
    the common variance.
    """
    from scipy.optimize import brentq
    from scipy.stats import t

    one = float(t.ppf((1 + level) / 2, freedom))
    most = float(t.ppf(1 - (1 - level) / (2 * len(correlation)), freedom))  # Bonferroni's is never smaller
    return float(
        brentq(lambda x: within(x, correlation, freedom) - level, one * 0.99, most * 1.01, xtol=1e-4)
    )


def holm(ps: np.ndarray, freedom: int, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Holm's (1979) adjusted p-values, and the t-quantile of each comparison's interval that agrees with them."""
    from scipy.stats import t

    count = len(ps)
    order = np.argsort(ps, kind="stable")
    factors = count - np.arange(count)
    adjusted = np.minimum(np.maximum.accumulate(ps[order] * factors), 1.0)
    stop = int(np.argmax(adjusted > 1 - level)) if (adjusted > 1 - level).any() else count - 1
    used = count - np.minimum(np.arange(count), stop)  # after the first that fails, all fail
    out, wide = np.empty(count), np.empty(count)
    out[order], wide[order] = adjusted, t.ppf(1 - (1 - level) / (2 * used), freedom)
    return out, wide
