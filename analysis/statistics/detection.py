"""Out of distribution: whether a fit that is scored on another task than it was trained on can tell the two apart.

For each such run the in-distribution run is found: the same fit, method, options, protocol and variant, on the training
task. In-distribution examples are the positive class. The scores, each higher for more familiar examples:

    entropy             -H(p), p the mixture over draws
    max_prob            max_c p_c
    mutual_information  -(H(p) - 1/S sum_s H(p_s)); needs S > 1 draws, with S = 1 it is a gap, not 0

AUROC is the probability that an in-distribution example scores higher than one that is not (ties count half). FPR95 is
the share of out-of-distribution examples above the highest threshold that keeps at least 95 % of the in-distribution
ones (Hendrycks and Gimpel 2017; Liang et al. 2018). Both by scikit-learn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from analysis.records.evaluation import Evaluation
from analysis.records.predictions import Predictions
from analysis.statistics.quality import entropies
from bench.metrics import Metric
from bench.specs import canonical, key

TPR = 0.95

Array = NDArray[np.float64]


def _entropy(given: Predictions) -> Array:
    return -entropies(given.log_probs)


def _max_prob(given: Predictions) -> Array:
    found: Array = np.exp(given.log_probs.max(axis=1))
    return found


def _mutual_information(given: Predictions) -> Array | None:
    if given.draws is None or len(given.draws) < 2:
        return None
    found: Array = entropies(given.draws).mean(axis=0) - entropies(given.log_probs)
    return found


SCORES: Mapping[str, Callable[[Predictions], Array | None]] = {
    "entropy": _entropy,
    "max_prob": _max_prob,
    "mutual_information": _mutual_information,
}
_TITLES = {"entropy": "entropy", "max_prob": "max p", "mutual_information": "MI"}
DETECTION = tuple(
    metric
    for name, title in _TITLES.items()
    for metric in (Metric(f"auroc_{name}", f"AUROC, {title}", 1), Metric(f"fpr95_{name}", f"FPR95, {title}", -1))
)
"""The display format of each detection score."""


def familiarity(given: Predictions) -> dict[str, Array]:
    """(N,) of every score that the predictions allow, by name."""
    found = {name: score(given) for name, score in SCORES.items()}
    return {name: values for name, values in found.items() if values is not None}


def detection(inside: Array, outside: Array) -> tuple[float, float]:
    """(AUROC, FPR95) of telling ``inside`` from ``outside`` by scores that should be higher inside."""
    from sklearn.metrics import roc_auc_score, roc_curve

    positive = np.repeat([1, 0], [len(inside), len(outside)])
    scores = np.concatenate([inside, outside])
    fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
    return float(roc_auc_score(positive, scores)), float(fpr[np.argmax(tpr >= TPR)])


def pair(record: Evaluation) -> str:
    """The part of a spec that an out-of-distribution run shares with its twin: all but the scored data."""
    spec = record.spec
    same = dataclasses.replace(spec, data=spec.fit.data, split="")
    return canonical([key(spec.fit), same])
