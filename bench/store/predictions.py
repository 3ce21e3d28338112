"""Predictions of an evaluation: per example and draw, in a safetensors file. Needs numpy only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.specs import canonical
from bench.store.files import damaged, reading

if TYPE_CHECKING:
    import numpy as np

FILE = "predictions.safetensors"


def write_predictions(file: Path, log_probs: Any, labels: Any, ids: tuple[str, ...], truth: Any | None) -> None:
    """Write (S, N, C) log-probabilities, (N,) labels, the N examples' ids and, where known, (N, C) log truth.

    Every metric can be recomputed from these.
    """
    from safetensors.numpy import save_file

    arrays = {"log_probs": log_probs, "labels": labels}
    if truth is not None:
        arrays["truth"] = truth
    save_file(arrays, file, metadata={"ids": canonical(list(ids))})


def read_predictions(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a predictions file, by the names that :func:`write_predictions` has them under; shapes checked.

    Raises:
        DamagedRecord: it is missing, not whole, or its arrays do not fit each other.
        UnreadableRecord: it cannot be read at all.
    """
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    with reading(file):
        with file.open("rb"):
            pass  # the library's own errors do not tell "no permission" from "no such file"
        try:
            arrays: dict[str, np.ndarray[Any, Any]] = load_file(file)
        except SafetensorError as error:
            raise damaged(file, error) from error
        log_probs, labels, truth = arrays["log_probs"], arrays["labels"], arrays.get("truth")
        if log_probs.ndim != 3 or 0 in log_probs.shape or not np.isfinite(log_probs).all():
            raise ValueError(f"log_probs of shape {log_probs.shape} are not finite (draws, examples, answers)")
        _, examples, answers = log_probs.shape
        if labels.shape != (examples,) or labels.dtype.kind not in "iu":
            raise ValueError(f"labels of shape {labels.shape} and type {labels.dtype} for {examples} examples")
        if labels.min() < 0 or labels.max() >= answers:
            raise ValueError(f"labels from {labels.min()} to {labels.max()} for {answers} answers")
        if truth is not None and truth.shape != (examples, answers):
            raise ValueError(f"truth of shape {truth.shape} for {examples} examples with {answers} answers")
    return arrays
