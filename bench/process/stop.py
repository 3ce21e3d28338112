"""Stopping between two steps. A signal only sets a flag; the work looks at it where it can stop without loss.

SIGTERM   someone wants this process to end: checkpoint, give up the claim, exit with 75.
SIGUSR2   a warning that the end is near (a time limit, a preemption): the same, then the command that starts it again.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import sys
import types
from collections.abc import Iterator

EXIT_STOPPED = 75  # EX_TEMPFAIL: nothing is wrong, start it again
AGAIN_SECONDS = 60  # for the command that starts a job again


class Stopped(BaseException):
    """The work was asked to stop, and did. Not an error: no ``except Exception`` of a method may swallow it."""


class StopRequest:
    """Why to stop, once somebody asked; "" until then."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @contextlib.contextmanager
    def installed(self) -> Iterator[StopRequest]:
        """Let SIGTERM and SIGUSR2 ask, inside a with block of a process's main thread."""
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGUSR2)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def __call__(self) -> str:
        return self.signal.name if self.signal else ""

    @property
    def warned(self) -> bool:
        """Whether it was the warning, so that the work should be started again."""
        return self.signal is signal.SIGUSR2

    def _ask(self, number: int, frame: types.FrameType | None) -> None:
        self.signal = signal.Signals(number)


def start_again(command: str) -> None:
    """Run the command that starts a job again. It makes some schedulers send SIGTERM to us at once: not any more."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        words = shlex.split(command) or [command]
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=AGAIN_SECONDS, check=False
        )
        failed = bool(done.returncode)
        said = (done.stderr or done.stdout).strip()
    except (OSError, ValueError, subprocess.SubprocessError) as error:  # the checkpoint is safe all the same
        failed, said = True, str(error)
    if failed:
        print(f"bench: `{command}` failed ({said}): submit the grid again to continue.", file=sys.stderr, flush=True)
