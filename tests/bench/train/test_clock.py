"""The training clock runs in the loop and nowhere else."""

from __future__ import annotations

import contextlib

import pytest
import torch

from bench.train import clock
from bench.train.clock import Clock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set by hand."""
    value = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: value[0])
    return value


def test_pauses_are_not_counted(now: list[float]) -> None:
    found = Clock(torch.device("cpu"))
    found.seconds = 10  # of an attempt before this one
    with found.running():
        now[0] = 2
        with found.paused():
            assert found.seconds == 12
            now[0] = 5
        now[0] = 6
    now[0] = 9
    assert found.seconds == 13


def test_an_exception_stops_the_clock_for_good(now: list[float]) -> None:
    found = Clock(torch.device("cpu"))
    with contextlib.suppress(RuntimeError), found.running():
        now[0] = 1
        with found.paused():
            now[0] = 5
            raise RuntimeError
    assert found.seconds == 1
