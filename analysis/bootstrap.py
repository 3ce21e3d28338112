"""Paired bootstrap over examples and seeds of the difference between two methods.

Seeds and examples are crossed: every seed predicts the same examples. A resample draws seeds with replacement and,
apart from that, examples with replacement, one draw of examples for both methods and all seeds (the "pigeonhole"
bootstrap: Owen 2007, Annals of Applied Statistics 1(2)):

    delta* = 1/S sum_s k_s (m(A_s, w) - m(B_s, w)),   k ~ Multinomial(S; 1/S),   w ~ Multinomial(N; 1/N)

where m(A_s, w) is a metric of method A's predictions with seed s, example n counted w_n times. The interval holds the
middle 95 % of delta*, and p is twice the share of delta* on the far side of 0, with one added to both counts:

    p = 2 (1 + min(#{delta* <= 0}, #{delta* >= 0})) / (R + 1), at most 1

scipy.stats.bootstrap resamples one axis, so the two lines of resampling are here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.predictions import Predictions
from bench.metrics import BINS, METRICS

RESAMPLES = 5000  # the smallest p is 0.0004: below 0.05 after Holm's correction for 125 comparisons
CHUNK = 4_000_000  # counts that are multiplied at once, to save memory
SEED = 20_240_601  # of the resampling; any number
LEVEL = 0.95

Array = NDArray[np.float64]


class Scored(NamedTuple):
    """The metrics of one run: on its examples, and on the resamples of them, (R,) each."""

    whole: Mapping[str, float]
    resampled: Mapping[str, Array]


class Estimate(NamedTuple):
    """A mean difference over seeds, its interval, in how many of the seeds the sign is that of the mean, and p."""

    mean: float
    low: float
    high: float
    agree: int
    seeds: int
    p: float


def score_resamples(given: Predictions) -> Scored:
    """All metrics of a run's predictions. Runs with equally many examples are resampled alike."""
    columns = {name: terms(given) for name, terms in TERMS.items()}  # (N,) or (N, bins)
    table = np.column_stack(list(columns.values()))
    counts = _counts(0, len(given.labels))
    parts = np.array_split(counts, -(-counts.size // CHUNK))
    means = np.concatenate([part.astype(np.float64) @ table for part in parts]) / len(table)  # (R, columns)
    resampled, start = {}, 0
    for name, column in columns.items():
        width = 1 if column.ndim == 1 else column.shape[1]
        part = means[:, start : start + width]
        resampled[name] = part[:, 0] if column.ndim == 1 else np.abs(part).sum(axis=1)
        start += width
    return Scored({name: METRICS[name](given.log_probs, given.labels) for name in columns}, resampled)


def paired_difference(metric: str, ours: Sequence[Scored], theirs: Sequence[Scored]) -> Estimate:
    """A metric of ``ours`` less that of ``theirs``; the runs are paired by seed, on the same examples."""
    pairs = list(zip(ours, theirs, strict=True))
    differences = [a.whole[metric] - b.whole[metric] for a, b in pairs]
    mean = float(np.mean(differences))
    by_seed = np.stack([a.resampled[metric] - b.resampled[metric] for a, b in pairs], axis=1)  # (R, S)
    resampled = (by_seed * _counts(1, len(pairs))).sum(axis=1) / len(pairs)
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    agree = sum(np.sign(difference) == np.sign(mean) for difference in differences)
    beyond = 1 + min(np.count_nonzero(resampled <= 0), np.count_nonzero(resampled >= 0))
    p = min(1.0, 2 * beyond / (RESAMPLES + 1))
    return Estimate(mean, float(low), float(high), int(agree), len(pairs), p)


@lru_cache(maxsize=4)
def _counts(axis: int, size: int) -> NDArray[np.uint8]:
    """(R, size) times that examples (axis 0) or seeds (axis 1) are in each resample; rows sum to ``size``."""
    drawn = np.random.default_rng([SEED, axis]).integers(size, size=(RESAMPLES, size))
    places = drawn + size * np.arange(RESAMPLES)[:, None]
    counts = np.bincount(places.ravel(), minlength=RESAMPLES * size).reshape(RESAMPLES, size)
    return counts.astype(np.uint8)  # a count above 255 has a probability below 1e-400


def _accuracy(given: Predictions) -> Array:
    right: Array = (given.log_probs.argmax(axis=1) == given.labels).astype(np.float64)
    return right


def _nll(given: Predictions) -> Array:
    lost: Array = -given.log_probs[np.arange(len(given.labels)), given.labels]
    return lost


def _brier(given: Predictions) -> Array:
    probs = np.exp(given.log_probs)
    squares: Array = ((probs - np.eye(probs.shape[1])[given.labels]) ** 2).sum(axis=1)
    return squares


def _ece(given: Predictions) -> Array:
    probs = np.exp(given.log_probs)
    confidence = probs.max(axis=1)
    gap = (probs.argmax(axis=1) == given.labels) - confidence
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    by_bin: Array = np.eye(BINS)[place] * gap[:, None]
    return by_bin


TERMS: Mapping[str, Callable[[Predictions], Array]] = {
    "accuracy": _accuracy,
    "ece": _ece,
    "nll": _nll,
    "brier": _brier,
}
"""What a metric averages over examples: (N,) terms, or (N, bins) terms the sizes of whose means are added up.

``bench.metrics`` gives the metrics themselves; a test holds that plain averages of these terms are equal to them.
"""
