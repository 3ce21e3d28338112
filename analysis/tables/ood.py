"""Out of distribution: a fit scored on another task than it was trained on, and whether it can tell the two apart.

For each such run the in-distribution run is found: the same fit, method, options, protocol and variant, on the training
task. In-distribution examples are the positive class. The scores, each the higher the more familiar an example is:

    entropy             -H(p), p the mixture over draws
    max_prob            max_c p_c
    mutual_information  -(H(p) - 1/S sum_s H(p_s)); needs S > 1 draws, with S = 1 it is a gap, not 0

AUROC is the probability that an in-distribution example scores higher than one that is not (ties count half). FPR95 is
the share of out-of-distribution examples above the highest threshold that keeps at least 95 % of the in-distribution
ones (Hendrycks and Gimpel 2017; Liang et al. 2018). Both by scikit-learn.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from analysis.records.groups import Group, Runs
from analysis.records.predictions import Predictions, read_predictions
from analysis.statistics.quality import entropies
from analysis.tables.recomputed import Row
from bench.metrics import METRICS
from bench.specs import canonical, key
from bench.store.records import DamagedRecord, RunRecord

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


def detection(inside: Array, outside: Array) -> tuple[float, float]:
    """(AUROC, FPR95) of telling ``inside`` from ``outside`` by scores that should be higher inside."""
    from sklearn.metrics import roc_auc_score, roc_curve

    positive = np.repeat([1, 0], [len(inside), len(outside)])
    scores = np.concatenate([inside, outside])
    fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
    return float(roc_auc_score(positive, scores)), float(fpr[np.argmax(tpr >= TPR)])


def detections(runs: Runs) -> tuple[list[Row], list[str]]:
    """A row per group that is scored out of distribution, and a sentence for each detection that could not be made."""
    at_home = {_pair(record): record for group in runs.results if not _away(group) for record in group.records}
    rows, notes = [], []
    for group in filter(_away, runs.results):
        values: dict[str, dict[int, float]] = {}
        for name in METRICS:
            values[name] = {record.spec.fit.seed: record.metrics[name] for record in group.having(name)}
        for record in group.records:
            twin = at_home.get(_pair(record))
            if twin is None:
                notes.append(
                    f"No detection by {group.name} on {group.task}, seed {record.spec.fit.seed}: "
                    "there is no run of the same fit on its own task."
                )
                continue
            try:
                inside, outside = read_predictions(twin), read_predictions(record)
            except DamagedRecord as error:
                print(f"left out of the detection: {error}", file=sys.stderr)
                notes.append(f"Left out of the detection: {error}")
                continue
            if inside.log_probs.shape[1] != outside.log_probs.shape[1]:
                notes.append(
                    f"{group.task}: the tasks have {inside.log_probs.shape[1]} and {outside.log_probs.shape[1]} "
                    "answers, so their entropies and probabilities are not on one scale."
                )
            for name, score in SCORES.items():
                ours, theirs = score(inside), score(outside)
                if ours is not None and theirs is not None:
                    auroc, fpr = detection(ours, theirs)
                    values.setdefault(f"auroc_{name}", {})[record.spec.fit.seed] = auroc
                    values.setdefault(f"fpr95_{name}", {})[record.spec.fit.seed] = fpr
        rows.append(Row(group, {name: found for name, found in values.items() if found}))
    return rows, list(dict.fromkeys(notes))


def _away(group: Group) -> bool:
    return group.spec.fit.data.task != group.spec.data.task


def _pair(record: RunRecord) -> str:
    """What a run out of distribution shares with its twin: all but the data it is scored on."""
    spec = record.spec
    same = dataclasses.replace(spec, data=spec.fit.data, split="")
    return canonical([key(spec.fit), same])
