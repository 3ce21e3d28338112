"""Progress of long work: one bar with a time estimate on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn, TextIO

from bench.process.text import printable

if TYPE_CHECKING:
    from tqdm import tqdm

LINE_SECONDS = 10.0  # between plain lines
EMIT_SECONDS = 0.2  # between updates of the bar
FIT_SHARE = 0.8  # of a family's work, for the estimate; its evaluations share the rest


class Progress:
    """Receives the progress of the work. This one shows nothing."""

    def start(self, stage: str, total: int, done: int = 0) -> None:
        """A stage of ``total`` units begins, ``done`` of them already done; ``total`` is 0 when it is not known."""

    def step(self, done: int) -> None:
        """``done`` units of the stage are done."""

    def advance(self, count: int) -> None:
        """``count`` more units of the stage are done."""

    def finish(self) -> None:
        """The stage is over."""


class FamilyProgress(Progress):
    """Turns the stages of one family (its fits, its evaluations) into a fraction and a text for ``sink``."""

    def __init__(self, label: str, evaluations: int, sink: Callable[[float, str], None]) -> None:
        self._label = label
        self._share = (1 - FIT_SHARE) / max(1, evaluations)
        self._sink = sink
        self._fraction = 0.0
        self._stage = ""
        self._total = 1
        self._at = 0
        self._emitted = 0.0

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self._stage, self._total = stage, total
        self.step(done)

    def advance(self, count: int) -> None:
        self.step(self._at + count)

    def step(self, done: int) -> None:
        self._at = done
        now = time.monotonic()
        if now - self._emitted < EMIT_SECONDS:
            return
        self._emitted = now
        part = (FIT_SHARE if self._stage == "train" else self._share) * min(1.0, done / (self._total or done or 1))
        count = f"{done}/{self._total}" if self._total else f"{done} examples"
        self._sink(min(1.0, self._fraction + part), f"{self._label}: {self._stage} {count}")

    def finish(self) -> None:
        if self._stage == "train":
            self._fraction = max(self._fraction, FIT_SHARE)
        else:
            self._fraction = max(FIT_SHARE, self._fraction) + self._share


class Bar:
    """The display: how many of ``total`` families are done, how long it took and how long it may still take.

    It never raises: once its stream is gone (a closed terminal, ``2>&1 | head``), it keeps silent and the work goes on.
    """

    def __init__(self, title: str, total: int, stream: TextIO | None = None) -> None:
        self._stream = stream = stream or sys.stderr
        self._title, self._total = title, total
        self._fractions: dict[str, float] = {}
        self._done = 0
        self._began = self._line_at = time.monotonic()
        self._tqdm: tqdm[NoReturn] | None = None
        with self._showing():
            if stream.isatty():
                from tqdm import tqdm

                self._tqdm = tqdm(
                    total=float(total),
                    desc=title,
                    file=stream,
                    bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed} elapsed, {remaining} left{postfix}",
                )

    def update(self, family: str, fraction: float, text: str) -> None:
        """Family ``family`` is at ``fraction`` of its work."""
        self._fractions[family] = fraction
        if self._tqdm is None:
            if time.monotonic() - self._line_at >= LINE_SECONDS:
                self.log(text)
            return
        with self._showing():
            self._tqdm.n = self._finished
            self._tqdm.set_postfix_str(printable(text))

    def done(self, family: str, text: str, well: bool = True) -> None:
        """Family ``family`` has ended, well or not."""
        self._fractions.pop(family, None)
        self._done += 1
        if self._tqdm is not None:
            self._tqdm.n = self._finished
        self.log(f"{'done' if well else 'FAILED'}: {text}")

    def log(self, text: str) -> None:
        """One line, above the bar where there is one."""
        self._line_at = time.monotonic()
        text = printable(text)
        with self._showing():
            if self._tqdm is not None:
                self._tqdm.write(text, file=self._stream)
                return
            share = self._finished / max(1, self._total)
            spent = self._line_at - self._began
            left = f", about {clock_text(spent / share - spent)} left" if 0.02 < share < 1 else ""
            where = f"{self._title} {100 * share:3.0f}% {self._done}/{self._total}, {clock_text(spent)}{left}"
            print(f"[{where}] {text}", file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        with self._showing():
            if self._tqdm is not None:
                self._tqdm.close()

    @property
    def _finished(self) -> float:
        """Families that are done, and the fractions of those under way."""
        return self._done + sum(self._fractions.values())

    @contextlib.contextmanager
    def _showing(self) -> Iterator[None]:
        """Writing to the stream: nothing that goes wrong with it is passed on, and then no more is written."""
        try:
            yield
        except (OSError, ValueError):  # EPIPE, EIO; ValueError: somebody closed the stream
            self._stream, self._tqdm = io.StringIO(), None


def clock_text(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
