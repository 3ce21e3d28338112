"""Metrics beyond the protocol's four, recomputed from stored predictions: no model is needed.

Notation: N examples, C answers, confidence = largest probability, gap of a bin = accuracy - confidence there. Bins are
15, (lo, hi], confidence 1.0 in the last (scikit-learn's calibration_curve has these edges but returns no counts,
SciPy's binned_statistic closes bins on the other side, so bins are counted here as in ``bench.metrics``).

    ece_15         sum_b n_b/N |gap_b|, equal widths (Guo et al. 2017)
    ece_adaptive   the same over bins of equal mass, cut by rank; equal confidences share a bin (Nixon et al. 2019)
    ece_debiased   ece_adaptive less its bias: E over accuracies ~ N(acc_b, acc_b (1 - acc_b) / n_b) of the ECE, less
                   the ECE, in closed form (folded normal); may be negative (Kumar et al. 2019, section 4)
    mce            max_b |gap_b|, equal widths (Guo et al. 2017)
    ece_classwise  mean over answers c of sum_b n_bc/N |share of c - mean p_c|, equal widths (Kull et al. 2019)
    aurc           mean over k of the error rate among the k most confident examples (Geifman and El-Yaniv 2017); within
                   equal confidences the expectation over their orders
    entropy        mean of -sum_c p_c log p_c
    excess_nll     NLL less that of the true answer distribution, where that is stored
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from analysis.records.predictions import Predictions
from bench.metrics import EXCESS_NLL, Metric, bin_of, ece

BINS = 15

Array = NDArray[np.float64]


def _sure_right(given: Predictions) -> tuple[Array, Array]:
    """(N,) confidence and (N,) whether the prediction is right."""
    probs = np.exp(given.log_probs)
    return probs.max(axis=1), (probs.argmax(axis=1) == given.labels).astype(np.float64)


def _gaps(values: Array, hits: Array) -> Array:
    """(BINS,) of sums over a bin's examples of hit less value."""
    gaps: Array = np.bincount(bin_of(values, BINS), weights=hits - values, minlength=BINS).astype(np.float64)
    return gaps


def ece_15(given: Predictions) -> float:
    """ECE with 15 bins of equal width."""
    return ece(given.log_probs, given.labels, BINS)


def _equal_mass(given: Predictions) -> tuple[NDArray[np.intp], Array, Array]:
    """(bins,) examples, mean confidence and accuracy of the bins of equal mass, those that are not empty."""
    from scipy.stats import rankdata

    sure, right = _sure_right(given)
    place = ((rankdata(sure) - 0.5) / len(sure) * BINS).astype(np.intp)
    counts: NDArray[np.intp] = np.bincount(place, minlength=BINS)
    some = counts > 0
    sums = (np.bincount(place, weights=values, minlength=BINS)[some] for values in (sure, right))
    confidence, accuracy = (total / counts[some] for total in sums)
    return counts[some], confidence, accuracy


def ece_adaptive(given: Predictions) -> float:
    """ECE with 15 bins of equal mass."""
    counts, confidence, accuracy = _equal_mass(given)
    return float((counts * np.abs(accuracy - confidence)).sum() / len(given.labels))


def ece_debiased(given: Predictions) -> float:
    """ECE over bins of equal mass less the bias that sampling of the labels gives it."""
    from scipy.special import ndtr

    counts, confidence, accuracy = _equal_mass(given)
    gap, spread = np.abs(accuracy - confidence), np.sqrt(accuracy * (1 - accuracy) / counts)
    ratio = np.divide(gap, spread, out=np.full_like(gap, np.inf), where=spread > 0)
    # E|x| for x ~ N(gap, spread^2): the mean of the folded normal distribution
    expected = spread * np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2) + gap * (1 - 2 * ndtr(-ratio))
    return float((counts * (2 * gap - expected)).sum() / len(given.labels))


def mce(given: Predictions) -> float:
    """The largest gap of a bin of equal width that is not empty."""
    sure, right = _sure_right(given)
    counts = np.bincount(bin_of(sure, BINS), minlength=BINS)
    return float((np.abs(_gaps(sure, right)) / np.maximum(counts, 1)).max())


def ece_classwise(given: Predictions) -> float:
    """ECE of each answer's probability, averaged over the answers."""
    probs = np.exp(given.log_probs)
    is_label = np.eye(probs.shape[1])[given.labels]
    per_answer = [np.abs(_gaps(probs[:, c], is_label[:, c])).sum() for c in range(probs.shape[1])]
    return float(np.mean(per_answer) / len(given.labels))


def aurc(given: Predictions) -> float:
    """Area under the curve of risk against coverage."""
    sure, right = _sure_right(given)
    _, group, counts = np.unique(-sure, return_inverse=True, return_counts=True)
    wrong = np.bincount(group, weights=1 - right) / counts  # the error rate among equal confidences, best first
    errors = np.cumsum(np.repeat(wrong, counts))
    return float((errors / np.arange(1, len(errors) + 1)).mean())


def entropies(log_probs: NDArray[np.floating]) -> Array:
    """(...,) entropy in nats of (..., C) log-probabilities."""
    wide = np.asarray(log_probs, np.float64)
    probs = np.exp(wide)
    found: Array = -np.where(probs > 0, probs * np.where(probs > 0, wide, 0), 0).sum(axis=-1)  # 0 log 0 = 0
    return found


def entropy(given: Predictions) -> float:
    """Mean entropy of the mixture over draws."""
    return float(entropies(given.log_probs).mean())


def excess(given: Predictions) -> Array | None:
    """(N,) log p_true(y) - log p(y) of the labels, in nats; None where the truth is not stored."""
    if given.truth is None:
        return None
    rows = np.arange(len(given.labels))
    terms: Array = given.truth[rows, given.labels] - given.log_probs[rows, given.labels]
    return terms


def excess_nll(given: Predictions) -> float | None:
    """NLL less that of the truth; None where the truth is not stored."""
    terms = excess(given)
    return None if terms is None else float(terms.mean())


@dataclasses.dataclass(frozen=True)
class Quality:
    """A further metric: how it is shown, and how it is computed; None where predictions do not allow it."""

    metric: Metric
    of: Callable[[Predictions], float | None]

    def __call__(self, given: Predictions) -> float | None:
        """The metric of a run's predictions."""
        return self.of(given)


QUALITY: dict[str, Quality] = {
    quality.metric.name: quality
    for quality in (
        Quality(Metric("ece_15", "ECE × 100, 15 bins", -1, 100, 1), ece_15),
        Quality(Metric("ece_adaptive", "ECE × 100, equal mass", -1, 100, 1), ece_adaptive),
        Quality(Metric("ece_debiased", "ECE × 100, debiased", -1, 100, 1), ece_debiased),
        Quality(Metric("mce", "MCE × 100", -1, 100, 1), mce),
        Quality(Metric("ece_classwise", "ECE × 100, classwise", -1, 100, 1), ece_classwise),
        Quality(Metric("aurc", "AURC × 100", -1, 100, 1), aurc),
        Quality(Metric("entropy", "Entropy (nats)"), entropy),
        Quality(EXCESS_NLL, excess_nll),
    )
}
