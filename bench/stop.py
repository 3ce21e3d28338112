"""Stopping between two steps. A signal only sets a flag; the work looks at it where it can stop without loss.

SIGTERM   someone wants this process to end: checkpoint, give up the claim, exit with 75.
SIGUSR2   a warning that the end is near (a time limit, a preemption): the same, then the command that starts it again.
"""

from __future__ import annotations

import signal
import types

EXIT_STOPPED = 75  # EX_TEMPFAIL: nothing is wrong, start it again


class Stopped(BaseException):
    """The work was asked to stop, and did. Not an error: no ``except Exception`` of a method may swallow it."""


class StopRequest:
    """Why to stop, once somebody asked; "" until then."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def install(self) -> StopRequest:
        """Let SIGTERM and SIGUSR2 ask. For the main thread of a process."""
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._ask)
        return self

    def __call__(self) -> str:
        return self.signal.name if self.signal else ""

    @property
    def warned(self) -> bool:
        """Whether it was the warning, so that the work should be started again."""
        return self.signal is signal.SIGUSR2

    def _ask(self, number: int, frame: types.FrameType | None) -> None:
        self.signal = signal.Signals(number)
