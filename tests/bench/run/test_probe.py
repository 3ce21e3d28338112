"""The pace of a probe's trainings: that of the long ones which they stand for, by a clock that counts passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from support import plan

from bench.run.probe import SETTLED, SIZES, FitCost, probe
from bench.run.runner import Runner
from bench.store.store import Store
from bench.train.replay import FIRST, SHORT, ReplayedLoss

PLAIN, RECORDING, REPLAY = 3.0, 20.0, 1.0  # seconds of a pass


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, int]:
    """The number of passes of each kind, by which the clock goes."""
    now, passes = [0.0], {"_run": 0, "_record": 0, "_replay": 0}

    def counted(name: str, seconds: float) -> Callable[..., Any]:
        take = getattr(ReplayedLoss, name)

        def call(*arguments: Any) -> Any:
            now[0] += seconds
            passes[name] += 1
            return take(*arguments)

        return call

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    for name, seconds in (("_run", PLAIN), ("_record", RECORDING), ("_replay", REPLAY)):
        monkeypatch.setattr(ReplayedLoss, name, counted(name, seconds))
    return passes


def cost(steps: int, folder: Path) -> FitCost:
    """What a probe finds for AdamW's training."""
    run = plan("adamw", steps=steps)
    (found,) = probe(Runner(store=Store(folder)), [run.fit], [run]).fits.values()
    return found


def test_a_probe_replays_what_a_long_training_would(counting: Mapping[str, int], tmp_path: Path) -> None:
    steps = 1000
    found = cost(steps, tmp_path)
    assert counting["_record"] == len(SIZES) and FIRST + 1 < SETTLED
    once = FIRST * PLAIN + RECORDING + REPLAY  # the step after the recording is computed both ways
    assert found.step.at(steps) == pytest.approx(once + (steps - FIRST - 1) * REPLAY)


def test_a_probe_of_a_short_training_replays_nothing(counting: Mapping[str, int], tmp_path: Path) -> None:
    cost(SHORT - 1, tmp_path)
    assert not any(counting.values())
