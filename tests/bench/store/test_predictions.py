"""Predictions: arrays that fit each other, or a complaint that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from bench.store.files import DamagedRecord, UnreadableRecord
from bench.store.predictions import read_predictions

HALF = np.log(np.full((2, 4, 2), 0.5, np.float32))
LABELS = np.array([0, 1, 0, 1])


def write(folder: Path, **arrays: Any) -> Path:
    file = folder / "key" / "predictions.safetensors"
    file.parent.mkdir(exist_ok=True)
    save_file({"log_probs": HALF, "labels": LABELS, **arrays}, file)
    return file


def test_arrays_come_back(tmp_path: Path) -> None:
    found = read_predictions(write(tmp_path, truth=np.zeros((4, 2))))
    assert np.array_equal(found["log_probs"], HALF) and found["truth"].shape == (4, 2)


@pytest.mark.parametrize(
    "arrays",
    [
        {"labels": np.array([0, 1, 0, 2])},
        {"labels": np.array([0, 1, 0, -1])},
        {"labels": np.array([0, 1, 0])},
        {"labels": np.array([0.0, 1.0, 0.0, 1.0])},
        {"log_probs": np.where(np.arange(16).reshape(2, 4, 2) == 5, np.nan, HALF)},
        {"log_probs": HALF[0]},
        {"log_probs": HALF[:, :3]},
        {"log_probs": HALF[:0]},
        {"truth": np.zeros((4, 3))},
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, arrays: dict[str, Any]) -> None:
    file = write(tmp_path, **arrays)
    with pytest.raises(DamagedRecord, match="is damaged") as error:
        read_predictions(file)
    assert str(file) in str(error.value)


def test_a_file_that_cannot_be_opened_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UnreadableRecord, match=r"cannot be read \(Permission denied\)"):
        read_predictions(file)
