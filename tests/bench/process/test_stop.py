"""Signals only ask. Those that are ignored stay ignored."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from bench.process import stop
from bench.process.stop import EXIT_INTERRUPTED, EXIT_STOPPED, StopRequest


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The handlers as they were before."""
    before = {number: signal.getsignal(number) for number in stop.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, EXIT_STOPPED), (signal.SIGHUP, EXIT_STOPPED), (signal.SIGINT, EXIT_INTERRUPTED),
     (signal.SIGUSR2, EXIT_STOPPED)],
)  # fmt: skip
def test_a_signal_asks_and_says_how_the_command_ends(number: signal.Signals, status: int) -> None:
    before = signal.getsignal(number)
    with StopRequest().installed() as request:
        assert request() == ""
        signal.raise_signal(number)
        assert request() == number.name and request.status == status
        assert request.stopped("because").status == status
        assert request.warned == (number is signal.SIGUSR2)
    assert signal.getsignal(number) is before


def test_two_interrupts_at_once_are_one_and_a_later_one_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with StopRequest().installed() as request:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # `timeout` and shells send it to the process and to its group
        assert request() == "SIGINT"
        later = time.monotonic() + stop.IMPATIENT_SECONDS + 1
        monkeypatch.setattr(time, "monotonic", lambda: later)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_what_nohup_and_background_jobs_ignore_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    with StopRequest().installed() as request:
        signal.raise_signal(number)
        assert request() == "" and signal.getsignal(number) is signal.SIG_IGN
