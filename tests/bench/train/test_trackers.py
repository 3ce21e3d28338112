"""Trackers receive every row of the training curve, once, and cannot disturb it."""

from __future__ import annotations

import builtins
import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import Linear, flat

from bench.errors import BrokenPlugin
from bench.process.stop import Stopped
from bench.train.trackers import CsvTracker, Row, Tracking, check_trackers

TOY = Linear(16, 4, white=True, prior_sd=1.0)


class Dummy:
    """Keeps the rows."""

    def __init__(self, *_: Any) -> None:
        self.rows: list[Row] = []

    def log(self, row: Row) -> None:
        self.rows.append(row)


class Broken(Dummy):
    """Fails at the third row."""

    def __init__(self, error: type[BaseException] = OSError) -> None:
        super().__init__()
        self.error = error

    def log(self, row: Row) -> None:
        super().log(row)
        if len(self.rows) == 3:
            raise self.error("no connection")


def train(folder: Path, *trackers: Any, stop_at: int = 0) -> Any:
    """A training of 8 steps, evaluated every 4."""
    job = TOY.job(folder, steps=8)
    job.tracking, job.eval_every = Tracking(trackers), 4
    job.score = lambda posterior: {"accuracy": 0.5}
    job.checkpointing.stop = lambda: "told" if job.step == stop_at else ""
    job.train(torch.optim.SGD(list(job.model.params.values()), lr=0.1), diagnose=lambda: {"sharpness": 2.0})
    return job


def test_a_tracker_receives_every_row_of_the_trace(tmp_path: Path) -> None:
    dummy = Dummy()
    job = train(tmp_path, dummy)
    wanted = [(row["step"], name, value) for row in job.trace for name, value in row.items() if name != "step"]
    assert dummy.rows == wanted and len(wanted) == 8 * 4 + 3 * 2
    assert {row.name for row in dummy.rows} == {"seconds", "loss", "lr", "sharpness", "accuracy"}


def test_a_resumed_training_tells_a_new_tracker_the_whole_curve(tmp_path: Path) -> None:
    first, second = Dummy(), Dummy()
    with pytest.raises(Stopped):
        train(tmp_path, first, stop_at=5)
    job = train(tmp_path, second)
    steps = [row.step for row in second.rows if row.name == "loss"]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8] and second.rows[: len(first.rows)] == first.rows
    assert len(second.rows) == sum(len(row) - 1 for row in job.trace)


@pytest.mark.parametrize("error", [OSError, SystemExit])
def test_a_tracker_that_fails_is_dropped_and_the_training_goes_on(
    error: type[BaseException], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken, dummy = Broken(error), Dummy()
    weights = flat(train(tmp_path / "a", broken, dummy).model.params)
    assert torch.equal(weights, flat(train(tmp_path / "b").model.params))
    assert len(broken.rows) == 3 and len(dummy.rows) == 38
    assert [record.getMessage() for record in caplog.records] == [
        f"A Broken failed ({error.__name__}: no connection) and is dropped."
    ]


def test_the_csv_has_a_line_for_each_row(tmp_path: Path) -> None:
    fit = TOY.job(tmp_path, steps=8).spec
    job = train(tmp_path, CsvTracker(tmp_path, fit))
    with (tmp_path / "curve.csv").open(newline="") as stream:
        head, *lines = csv.reader(stream)
    assert head == ["step", "name", "value"] and len(lines) == 38
    assert [float(value) for _, name, value in lines if name == "loss"] == [r["loss"] for r in job.trace if "loss" in r]


def test_tensorboard_gets_the_scalars(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracking = Tracking.open(["tensorboard"], tmp_path, TOY.job(tmp_path, steps=8).spec)
    tracking.log({"step": 3, "loss": 0.25})
    tracking.close()
    (folder,) = {file.parent for file in tmp_path.rglob("events.out.*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(3, 0.25)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cvs", "no tracker 'cvs'. Did you mean 'csv'"),
        ("no_such_module:Mine", "--track no_such_module:Mine: no such module"),
        ("test_trackers_none:", "There is no tracker 'test_trackers_none:'"),
        (":Mine", "There is no tracker ':Mine'"),
        ("csv:Mine", "has no attribute 'Mine'"),
    ],
)
def test_a_tracker_that_does_not_exist_is_refused(name: str, said: str) -> None:
    with pytest.raises(LookupError, match=said):
        check_trackers([name])


def test_a_module_of_the_working_directory_is_found_and_a_broken_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "near_tracker.py").write_text("class Mine:\n    pass\n")
    (tmp_path / "broken_tracker.py").write_text("raise RuntimeError('boom')\n")
    (tmp_path / "unreadable_tracker.py").write_text("class Mine(:\n")
    check_trackers(["near_tracker:Mine"])
    for name in ("broken_tracker:Mine", "unreadable_tracker:Mine"):
        with pytest.raises(BrokenPlugin, match=rf"^--track {name} cannot be imported"):
            check_trackers([name])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("tensorboard"):
            raise ImportError(f"No module named '{name}'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(__import__("sys").modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'bayes-lora-bench\[tensorboard\]'"):
        check_trackers(["tensorboard"])


def test_a_tracker_that_cannot_be_opened_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tracking").touch()  # a file where the folder should be
    tracking = Tracking.open(["csv"], tmp_path / "tracking", TOY.job(tmp_path, steps=8).spec)
    tracking.log({"step": 1, "loss": 0.5})
    assert "The tracker csv cannot be opened" in caplog.text
