"""Stored predictions: the one thing the statistics need beside the records."""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.metrics import mixture
from bench.records import DamagedRecord, RunRecord


class Predictions(NamedTuple):
    """(N, C) log-probabilities of the mixture over draws, (N,) labels, and the N examples' ids."""

    log_probs: NDArray[np.float64]
    labels: NDArray[np.int64]
    ids: tuple[str, ...]


def read_predictions(record: RunRecord) -> Predictions:
    """The predictions of a run.

    Raises:
        DamagedRecord: the file is missing, unreadable, or not the one whose hash is in ``facts.json``.
    """
    return read_by_draws(record, whole=True)[0]


def read_by_draws(record: RunRecord, whole: bool = False) -> list[Predictions]:
    """The predictions of a run that used its first 1, 2, ... S draws; with ``whole``, only those that used all S.

    Raises:
        DamagedRecord: as :func:`read_predictions`.
    """
    from safetensors import SafetensorError, safe_open

    file = record.folder / "predictions.safetensors"
    try:
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != record.facts["files"][file.name]:
            raise ValueError("its content does not match the hash in facts.json")
        with safe_open(file, framework="numpy") as stored:
            ids = tuple(json.loads(stored.metadata()["ids"]))
            draws, labels = stored.get_tensor("log_probs"), stored.get_tensor("labels")
            used = [len(draws)] if whole else range(1, len(draws) + 1)
            return [Predictions(mixture(draws[:count]), labels, ids) for count in used]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DamagedRecord(
            f"{file} is damaged ({error}): delete the folder {record.folder} and run the grid again."
        ) from error
