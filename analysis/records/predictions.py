"""Stored predictions: the one thing the statistics need beside the records."""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.metrics import mixture
from bench.store.records import DamagedRecord, RunRecord


class Predictions(NamedTuple):
    """(N, C) log-probabilities of the mixture over draws, (N,) labels, and the N examples' ids.

    Beside them, as stored: (S, N, C) log-probabilities of each draw, and (N, C) of the truth where it is known.
    """

    log_probs: NDArray[np.float64]
    labels: NDArray[np.int64]
    ids: tuple[str, ...]
    draws: NDArray[np.float32] | None = None
    truth: NDArray[np.float64] | None = None


def read_predictions(record: RunRecord) -> Predictions:
    """The predictions of a run.

    Raises:
        DamagedRecord: the file is missing, unreadable, or not the one whose hash is in ``facts.json``.
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
            truth = stored.get_tensor("truth") if "truth" in stored.keys() else None  # noqa: SIM118  (no dict)
            return Predictions(mixture(draws), labels, ids, draws, truth)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DamagedRecord(
            f"{file} is damaged ({error}): delete the folder {record.folder} and run the grid again."
        ) from error
