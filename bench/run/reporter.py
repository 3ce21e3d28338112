"""Progress of one family: to the display and into its claim. The place where work may end before its end."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from bench.process.claim import Claim, Lost
from bench.process.progress import FamilyProgress, Progress
from bench.process.stop import Stopped
from bench.specs import Family

logger = logging.getLogger(__name__)


class Reporter(Progress):
    """Passes progress on to a display, shows it in the claim, and raises :class:`Stopped` where work may end.

    Training ends in its own loop, which first writes a checkpoint; only a lost claim ends it here. An error of the
    display never reaches the work: the display is dropped, and the work goes on.
    """

    def __init__(self, display: Progress, held: Claim, family: Family, stop: Callable[[], str]) -> None:
        self._display, self._held, self._stop = display, held, stop
        self._own = FamilyProgress(family.label, len(family.runs), self._show)
        self._began: tuple[float, float] | None = None
        self._stage, self._total, self._at = "", 0, 0

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self._stage, self._total, self._at = stage, total, done
        with self._displaying():
            self._display.start(stage, total, done)
        self._own.start(stage, total, done)

    def step(self, done: int) -> None:
        self._at = done
        with self._displaying():
            self._display.step(done)
        self._own.step(done)
        self.check()

    def advance(self, count: int) -> None:
        self._at += count
        with self._displaying():
            self._display.advance(count)
        self._own.advance(count)
        self.check()

    def finish(self) -> None:
        with self._displaying():
            self._display.finish()
        self._own.finish()
        self._stage = ""

    def check(self) -> None:
        """Stop here if there is a reason to.

        Raises:
            Lost: another process took the claim.
            Stopped: somebody asked for it, and this is no training.
        """
        if self._held.lost:
            raise Lost("another process took the claim, because this one had shown no sign of life")
        reason = "" if self._stage == "train" else self._stop()
        if reason:
            raise Stopped(f"{reason}: stopped before the end of {self._stage or 'the family'}")

    @contextlib.contextmanager
    def _displaying(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            logger.debug("the display failed and is dropped: %s", error)
            self._display = Progress()

    def _show(self, fraction: float, text: str) -> None:
        now = time.monotonic()
        began, at = self._began = self._began or (now, fraction)
        left = (now - began) * (1 - fraction) / (fraction - at) if fraction > at else None
        self._held.show(stage=self._stage, step=self._at, steps=self._total, fraction=fraction, left=left)
