"""Reliability: how often a prediction is right, against how sure it is, in the bins of the protocol's ECE.

Guo et al. 2017. Bins are those of ``bench.metrics.ece``: equal widths, (lo, hi], confidence 1.0 in the last.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.records.predictions import Predictions
from bench.metrics import BINS, bin_of


@dataclasses.dataclass(frozen=True)
class Reliability:
    """(BINS,) examples in each bin, and the sums over them of confidence and of right predictions."""

    counts: NDArray[np.int64]
    sure: NDArray[np.float64]
    right: NDArray[np.float64]

    @property
    def confidence(self) -> NDArray[np.float64]:
        """(BINS,) mean confidence; NaN where a bin is empty."""
        with np.errstate(invalid="ignore"):
            return self.sure / self.counts

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """(BINS,) accuracy; NaN where a bin is empty."""
        with np.errstate(invalid="ignore"):
            return self.right / self.counts


def reliability(given: Predictions) -> Reliability:
    """The bins of one run."""
    probs = np.exp(given.log_probs)
    confidence = probs.max(axis=1)
    place = bin_of(confidence)
    return Reliability(
        np.bincount(place, minlength=BINS),
        np.bincount(place, weights=confidence, minlength=BINS).astype(np.float64),
        np.bincount(place, weights=probs.argmax(axis=1) == given.labels, minlength=BINS).astype(np.float64),
    )


def pooled(runs: Sequence[Reliability]) -> Reliability:
    """The bins of several runs (seeds) together: every prediction counts once."""
    return Reliability(
        np.sum([run.counts for run in runs], axis=0),
        np.sum([run.sure for run in runs], axis=0),
        np.sum([run.right for run in runs], axis=0),
    )
