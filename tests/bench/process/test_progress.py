"""The display: right numbers while there is a stream, silence once there is none."""

from __future__ import annotations

import errno
import io

import pytest

from bench.process.progress import Bar, FamilyProgress, clock_text


class Terminal(io.StringIO):
    """A terminal that keeps what is written, until it fails."""

    def __init__(self, error: Exception | None = None, terminal: bool = True) -> None:
        super().__init__()
        self.error, self.terminal, self.writes = error, terminal, 0

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        self.writes += 1
        if self.error is not None:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    "error", [BrokenPipeError(errno.EPIPE, "gone"), OSError(errno.EIO, "gone"), ValueError("closed file")]
)
def test_a_stream_that_is_gone_stops_nothing(error: Exception, terminal: bool) -> None:
    stream = Terminal(terminal=terminal)
    bar = Bar("g", 2, stream)
    bar.log("hello")
    stream.error = error
    for _ in range(2):
        bar.log("x")
        bar.update("a", 0.5, "half")
        bar.done("a", "a")
    bar.close()
    assert "hello" in stream.getvalue() and "FAILED" not in stream.getvalue()


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(errno.EIO, "gone")])
def test_a_stream_that_is_gone_from_the_start_stops_nothing(error: Exception) -> None:
    stream = Terminal(error)
    bar = Bar("g", 1, stream)
    bar.done("a", "a")
    bar.close()
    assert stream.getvalue() == ""


def test_lines_count_families() -> None:
    stream = Terminal(terminal=False)
    bar = Bar("g", 2, stream)
    bar.done("a", "first")
    bar.done("b", "second", well=False)
    first, second = stream.getvalue().splitlines()
    assert first.startswith("[g  50% 1/2, 0:00") and first.endswith("] done: first")
    assert second.startswith("[g 100% 2/2, 0:00") and second.endswith("] FAILED: second")


def test_a_familys_stages_add_up() -> None:
    seen: list[float] = []
    progress = FamilyProgress("a", 2, lambda fraction, text: seen.append(fraction))
    progress.start("train", 10)
    progress.finish()
    for _ in range(2):
        progress.start("predict", 5)
        progress.finish()
    progress._emitted = float("-inf")
    progress.start("predict", 0)
    assert seen[0] == 0.0 and seen[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(("seconds", "text"), [(0.9, "0:00"), (61, "1:01"), (3661, "1:01:01")])
def test_clock_text(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text
