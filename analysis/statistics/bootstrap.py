"""Paired differences between two methods: an interval and p over seeds and examples, honest with few seeds.

Seeds and examples are crossed: every seed predicts the same examples. With d_s the difference of a metric for seed s,
the mean over S seeds varies for two reasons, which are estimated apart:

    seeds      V = 1/S var_s(d_s), with S - 1 degrees of freedom; holds what a seed adds on each example, too
    examples   W = mean over s != s' of cov*(d*_s, d*_s'), with N - 1;  for S = 1, var*(d*_1), and V is not known

where d*_s is d_s on a resample of examples with replacement, one draw for both methods and all seeds; this is the
variance of a mean in a two-way random-effects model (Owen 2007, Annals of Applied Statistics 1(2)), W at least 0. The
two are joined so that, with normal errors, at least 1 - alpha is covered whatever their shares (Banerjee 1961,
Sankhya A 23):

    mean +- h(alpha),   h^2 = t^2(S - 1, alpha) V + t^2(N - 1, alpha) W,   p: the alpha at which h = |mean|

Percentiles of a bootstrap over few seeds are too narrow: by sqrt((S - 1) / S), and by the tails of t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.metrics import METRICS

RESAMPLES = 2000  # standard errors to 1.6 %
SMALLEST = 1e-6  # the smallest p: no tail of a bootstrap is known beyond
ROUNDING = 1e-12  # a smaller difference is none
CHUNK = 4_000_000  # counts that are multiplied at once, to save memory
SEED = 20_240_601  # of the resampling; any number
LEVEL = 0.95

Array = NDArray[np.float64]


class Scored(NamedTuple):
    """The metrics of one run on its examples, and by how much they differ on resamples of them, (R,) each."""

    whole: Mapping[str, float]
    shifts: Mapping[str, Array]
    examples: int


class Scorable(NamedTuple):
    """The input of metrics: (N, C) log-probabilities of the mixture over draws, and (N,) labels."""

    log_probs: Array
    labels: NDArray[np.int64]


class Estimate(NamedTuple):
    """A mean difference over seeds, its interval, in how many of the seeds the sign is that of the mean, and p.

    With one seed, interval and p are over examples only: they speak of these two fits, not of the methods.
    """

    mean: float
    low: float
    high: float
    agree: int
    seeds: int
    p: float


def score_resamples(runs: Sequence[Scorable]) -> list[Scored]:
    """All metrics that have terms per example, of runs with equally many examples, which are resampled alike."""
    metrics = [metric for metric in METRICS.values() if metric.terms is not None]
    wholes, columns = [], []
    for run in runs:
        terms = [metric.terms(*run) for metric in metrics if metric.terms is not None]
        wholes.append({metric.name: metric(*run) for metric in metrics})
        columns.append([term if term.ndim == 1 else term[:, term.any(axis=0)] for term in terms])  # (N,) or (N, bins)
    means = _resampled(np.column_stack([column for parts in columns for column in parts]))
    scored, start = [], 0
    for whole, parts in zip(wholes, columns, strict=True):
        shifts = {}
        for metric, column in zip(metrics, parts, strict=True):
            width = 1 if column.ndim == 1 else column.shape[1]
            block = means[:, start : start + width]
            resampled = block[:, 0] if column.ndim == 1 else np.abs(block).sum(axis=1)
            shifts[metric.name] = resampled - whole[metric.name]
            start += width
        scored.append(Scored(whole, shifts, len(runs[0].labels)))
    return scored


def _resampled(table: Array) -> Array:
    """(R, columns) means of an (N, columns) table over resamples of its rows."""
    counts = _counts(len(table))
    parts = np.array_split(counts, -(-counts.size // CHUNK))
    means: Array = np.concatenate([part.astype(np.float64) @ table for part in parts]) / len(table)
    return means


def paired_difference(metric: str, ours: Sequence[Scored], theirs: Sequence[Scored]) -> Estimate:
    """A metric of ``ours`` less that of ``theirs``; the runs are paired by seed, on the same examples.

    Raises:
        ValueError: there are fewer than two examples.
    """
    examples = ours[0].examples
    if examples < 2:
        raise ValueError(f"{examples} examples have no spread: a difference needs at least two.")
    pairs = list(zip(ours, theirs, strict=True))
    differences = np.array([a.whole[metric] - b.whole[metric] for a, b in pairs])
    return _estimate(differences, np.stack([a.shifts[metric] - b.shifts[metric] for a, b in pairs]), examples)


def paired_mean(terms: Sequence[Array]) -> Estimate:
    """The mean of differences that are known for each example: (N,) of every seed, on the same examples.

    Raises:
        ValueError: there are fewer than two examples.
    """
    table = np.column_stack(terms)  # (N, S)
    if len(table) < 2:
        raise ValueError(f"{len(table)} examples have no spread: a difference needs at least two.")
    whole = table.mean(axis=0)
    return _estimate(whole, (_resampled(table) - whole).T, len(table))


def _estimate(differences: Array, shifts: Array, examples: int) -> Estimate:
    """From the (S,) differences of the seeds, and by how much they differ on (S, R) resamples of the examples."""
    mean = float(np.mean(differences))
    parts = _parts(differences, np.atleast_2d(np.cov(shifts)), examples)
    half = _half_width(1 - LEVEL, parts)
    agree = sum(np.sign(difference) == np.sign(mean) for difference in differences)
    return Estimate(mean, mean - half, mean + half, int(agree), len(differences), _p(mean, parts))


def _parts(differences: Array, covariance: Array, examples: int) -> list[tuple[float, int]]:
    """Variances of the mean difference, with their degrees of freedom: of examples, and of seeds if there are two.

    A metric that takes few values, such as accuracy, may differ by the same amount in every seed. That is chance, not
    a spread of zero: the part of the variance over examples that seeds do not share then stands for that of seeds.
    """
    seeds = len(differences)
    if seeds == 1:
        return [(float(covariance[0, 0]), examples - 1)]
    shared = float(covariance.sum() - np.trace(covariance)) / (seeds * (seeds - 1))
    common = max(0.0, shared)
    spread = float(differences.var(ddof=1)) / seeds
    if np.ptp(differences) < ROUNDING:
        spread = max(0.0, float(covariance.mean()) - common)
    return [(common, examples - 1), (spread, seeds - 1)]


def _half_width(alpha: float, parts: Sequence[tuple[float, int]]) -> float:
    from scipy.special import stdtrit

    return math.sqrt(sum(float(stdtrit(df, alpha / 2)) ** 2 * variance for variance, df in parts))


def _p(mean: float, parts: Sequence[tuple[float, int]]) -> float:
    """The alpha at which the interval's end is 0."""
    from scipy.optimize import brentq

    if abs(mean) < ROUNDING:
        return 1.0
    if _half_width(SMALLEST, parts) <= abs(mean):
        return SMALLEST
    log_alpha = brentq(lambda log: _half_width(math.exp(log), parts) - abs(mean), math.log(SMALLEST), 0.0, xtol=1e-10)
    return min(1.0, math.exp(log_alpha))


@lru_cache(maxsize=4)
def _counts(size: int) -> NDArray[np.uint8]:
    """(R, size) times that examples are in each resample; rows sum to ``size``."""
    drawn = np.random.default_rng(SEED).integers(size, size=(RESAMPLES, size))
    places = drawn + size * np.arange(RESAMPLES)[:, None]
    counts = np.bincount(places.ravel(), minlength=RESAMPLES * size).reshape(RESAMPLES, size)
    return counts.astype(np.uint8)  # a count above 255 has a probability below 1e-400
