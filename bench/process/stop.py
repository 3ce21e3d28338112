"""Stopping between two steps. A signal only sets a flag; the work looks at it wherever it can stop without loss.

SIGTERM, SIGHUP   someone ends this process, or its terminal was closed: checkpoint, release the claim, exit with 75.
SIGINT            Ctrl-C: the same, exit with 130. A second one, two seconds later, ends the process without waiting.
SIGUSR2           a warning that the end is near (a time limit, a preemption): as SIGTERM, then run the command that
                  starts the job again.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import signal
import subprocess
import time
import types
from collections.abc import Iterator

EXIT_STOPPED = 75  # EX_TEMPFAIL: nothing is wrong, start it again
EXIT_INTERRUPTED = 130  # as shells report a program that Ctrl-C ended
AGAIN_SECONDS = 60  # for the command that starts a job again
IMPATIENT_SECONDS = 2.0  # a second SIGINT after this long is a second keystroke, not an echo of the first
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR2)

logger = logging.getLogger(__name__)


class Stopped(BaseException):
    """The work was asked to stop, and did. Not an error: no ``except Exception`` of a method may swallow it.

    ``status`` is the exit status of a command that ends with it.
    """

    def __init__(self, reason: str, status: int = EXIT_STOPPED) -> None:
        super().__init__(reason)
        self.status = status


class StopRequest:
    """Why to stop, once somebody asked; "" until then."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._interrupted_at: float | None = None

    @contextlib.contextmanager
    def installed(self) -> Iterator[StopRequest]:
        """Let signals ask, inside a with block of a process's main thread.

        Signals that are ignored stay ignored: ``nohup`` and background jobs rely on it.
        """
        before = {number: signal.getsignal(number) for number in SIGNALS}
        heard = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
        for number in heard:
            signal.signal(number, self._ask)
        try:
            yield self
        finally:
            for number, handler in heard.items():
                signal.signal(number, handler)

    def __call__(self) -> str:
        return self.signal.name if self.signal else ""

    @property
    def warned(self) -> bool:
        """Whether it was the warning, so that the work should be started again."""
        return self.signal is signal.SIGUSR2

    @property
    def status(self) -> int:
        """The exit status of a command that was asked to stop."""
        return EXIT_INTERRUPTED if self.signal is signal.SIGINT else EXIT_STOPPED

    def stopped(self, text: str) -> Stopped:
        """The exception that ends a command, with the status that the signal calls for."""
        return Stopped(text, self.status)

    def _ask(self, number: int, frame: types.FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT:
            if self._interrupted_at is not None and now - self._interrupted_at > IMPATIENT_SECONDS:
                raise KeyboardInterrupt
            self._interrupted_at = self._interrupted_at or now
        self.signal = signal.Signals(number)


def start_again(command: str) -> None:
    """Run the command that starts a job again.

    It makes some schedulers send SIGTERM to this process at once, which is ignored from here on.
    """
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
        logger.warning("`%s` failed (%s): submit the grid again to continue.", command, said)
