"""Reliability: how often a prediction is right, against how sure it is, in the bins of the protocol's ECE.

Guo et al. 2017. Bins are those of ``bench.metrics.ece``: equal widths, (lo, hi], confidence 1.0 in the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.records.predictions import Predictions
from bench.metrics import BINS, bin_of


class Reliability(NamedTuple):
    """(BINS,) examples in each bin, and their mean confidence and accuracy (NaN where a bin is empty)."""

    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def reliability(runs: Sequence[Predictions]) -> Reliability:
    """The bins of several runs (seeds) together: every prediction counts once."""
    counts, sure, right = np.zeros(BINS, np.int64), np.zeros(BINS), np.zeros(BINS)
    for run in runs:
        probs = np.exp(run.log_probs)
        confidence = probs.max(axis=1)
        place = bin_of(confidence)
        counts += np.bincount(place, minlength=BINS)
        sure += np.bincount(place, weights=confidence, minlength=BINS)
        right += np.bincount(place, weights=probs.argmax(axis=1) == run.labels, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return Reliability(counts, sure / counts, right / counts)
