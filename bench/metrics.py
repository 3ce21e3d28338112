"""The four metrics of the protocol as pure functions of stored predictions. numpy only: analysis uses them too.

Notation: S draws, N examples, C answers. Every mean is over examples, never a mean of batch means.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Labels = NDArray[np.integer]

BINS = 10  # PROTOCOL section 3


def mixture(log_probs: Floats) -> NDArray[np.float64]:
    """(N, C) log of the probability averaged over draws, from (S, N, C) log-probabilities.

    log (1/S) sum_s p_s = logsumexp_s log p_s - log S, in float64. Probabilities are averaged, never logits.
    """
    wide = np.asarray(log_probs, dtype=np.float64)
    if wide.ndim != 3 or 0 in wide.shape:
        raise ValueError(f"Predictions have shape {wide.shape}: they should be (draws, examples, answers), none empty.")
    mixed: NDArray[np.float64] = np.logaddexp.reduce(wide, axis=0) - np.log(wide.shape[0])
    return mixed


def accuracy(log_probs: Floats, labels: Labels) -> float:
    """Share of examples whose most probable answer is the label; (N, C) and (N,)."""
    return float((np.argmax(log_probs, axis=1) == labels).mean())


def nll(log_probs: Floats, labels: Labels) -> float:
    """Mean negative log-likelihood of the labels in nats: -1/N sum_n log p(y_n)."""
    return float(-np.asarray(log_probs, np.float64)[np.arange(len(labels)), labels].mean())


def brier(log_probs: Floats, labels: Labels) -> float:
    """Mean over examples of the squared error summed over answers: 1/N sum_n sum_c (p_nc - [y_n = c])^2, in [0, 2]."""
    probs = np.exp(np.asarray(log_probs, np.float64))
    return float(((probs - np.eye(probs.shape[1])[labels]) ** 2).sum(axis=1).mean())


def bin_of(values: Floats, bins: int = BINS) -> NDArray[np.intp]:
    """The number of each value's bin, of equally wide ones (lo, hi] from 0 to 1; 0 falls in the first."""
    return np.clip(np.ceil(values * bins).astype(np.intp) - 1, 0, bins - 1)


def ece(log_probs: Floats, labels: Labels, bins: int = BINS) -> float:
    """Expected calibration error: sum_b (n_b / N) |accuracy_b - confidence_b| over equal-width bins (lo, hi].

    Confidence is the largest probability; 1.0 falls in the last bin. A fraction, not a percentage.
    Guo et al. 2017, equation 3.
    """
    probs = np.exp(np.asarray(log_probs, np.float64))
    confidence = probs.max(axis=1)
    correct = (probs.argmax(axis=1) == labels).astype(np.float64)
    gaps = np.bincount(bin_of(confidence, bins), weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


METRICS = {"accuracy": accuracy, "ece": ece, "nll": nll, "brier": brier}


def score(log_probs: Floats, labels: Labels) -> dict[str, float]:
    """All metrics of the mixture over draws of (S, N, C) log-probabilities, against (N,) labels."""
    mixed = mixture(log_probs)
    return {name: metric(mixed, labels) for name, metric in METRICS.items()}
