"""Stored predictions: read once, checked, and compared with the stored metrics."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.records.facts import PREDICTIONS, Malformed, RunSummary
from bench.metrics import contradicted, mixture, score
from bench.process.reading import regular

SUM_TOLERANCE = 1e-3  # of the probabilities of one prediction, which float32 keeps to 1e-6


class Predictions(NamedTuple):
    """(N, C) log-probabilities of the mixture over draws, (N,) labels, and the N examples' ids.

    Also, as stored: (S, N, C) log-probabilities of each draw, and (N, C) of the true answers where they are known.
    """

    log_probs: NDArray[np.float64]
    labels: NDArray[np.int64]
    ids: tuple[str, ...]
    draws: NDArray[np.float32] | None = None
    truth: NDArray[np.float64] | None = None


def read_predictions(folder: Path, facts: RunSummary) -> Predictions:
    """The predictions of a run's folder; the file is opened once.

    Raises:
        Malformed: they are not those whose hash is in the facts, or have wrong types, shapes or values.
        OSError: the file cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content = regular(folder / PREDICTIONS).read_bytes()
    if hashlib.sha256(content).hexdigest() != facts.predictions_sha256:
        raise Malformed("its content does not match the hash in facts.json")
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        ids = _ids(header["__metadata__"]["ids"])
        arrays = load(content)
        draws, labels, truth = arrays["log_probs"], arrays["labels"], arrays.get("truth")
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Malformed(f"it is not a file of predictions ({type(error).__name__}: {error})") from error
    _check_draws(draws, facts)
    count, answers = draws.shape[1:]
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise Malformed(f"labels are {labels.dtype} {labels.shape}: they should be {count} integers")
    if labels.min() < 0 or labels.max() >= answers:
        raise Malformed(f"labels go from {labels.min()} to {labels.max()}: there are {answers} answers")
    if ids is None or len(ids) != count:
        raise Malformed(f"ids are not {count} names")
    if truth is not None:
        _check_distributions("truth", truth, (count, answers))
    return Predictions(mixture(draws), labels.astype(np.int64), ids, draws, truth)


@functools.lru_cache(maxsize=256)  # the runs of a task have the same, as one text
def _ids(text: str) -> tuple[str, ...] | None:
    ids = json.loads(text)
    return tuple(ids) if isinstance(ids, list) and all(isinstance(name, str) for name in ids) else None


def _check_draws(draws: NDArray[np.floating], facts: RunSummary) -> None:
    expected = (facts.draws, facts.scored)
    if draws.ndim != 3 or 0 in draws.shape or draws.shape[:2] != expected:
        raise Malformed(
            f"log_probs have shape {draws.shape}: facts.json says {facts.draws} draws of {facts.scored} examples"
        )
    _check_distributions("log_probs", draws, draws.shape)


def _check_distributions(name: str, log_probs: NDArray[np.floating], shape: tuple[int, ...]) -> None:
    if log_probs.dtype.kind != "f" or log_probs.shape != shape:
        raise Malformed(f"{name} is {log_probs.dtype} {log_probs.shape}: it should be floating-point numbers {shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.exp(log_probs, dtype=np.float64).sum(axis=-1)
    if not bool((np.abs(sums - 1) <= SUM_TOLERANCE).all()):
        raise Malformed(f"{name} has rows that are not log-probabilities: they should sum to one")


def recomputed(given: Predictions) -> dict[str, float]:
    """The metrics of the mixture, ``excess_nll`` among them where the truth is stored."""
    return score(given.log_probs[None], given.labels, given.truth)


def check_metrics(stated: Mapping[str, float], given: Predictions) -> dict[str, float]:
    """The metrics of the predictions, and those of ``stated`` that cannot be recomputed.

    Raises:
        Malformed: a stated metric is not that of the predictions.
    """
    found = recomputed(given)
    if why := contradicted(stated, found, given.log_probs):
        raise Malformed(why)
    if "excess_nll" in stated and "excess_nll" not in found:
        raise Malformed("facts.json has excess_nll, its predictions lack the truth")
    return {**found, **stated}
