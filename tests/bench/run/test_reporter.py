"""Progress of a family: shown, written into its claim, and the place where work may end."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import plan

from bench.plan.runs import families
from bench.process.claim import Lost, claim
from bench.process.holder import Worker, read_claims
from bench.process.progress import Progress
from bench.process.stop import Stopped
from bench.run.reporter import Reporter

(FAMILY,) = families([plan("adamw")])


class Broken(Progress):
    """A display whose pipe is gone."""

    def __init__(self, error: Exception) -> None:
        self.error, self.calls = error, 0

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self.calls += 1
        raise self.error

    step = advance = finish = start  # type: ignore[assignment]


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "gone"), ValueError("closed"), RuntimeError("bug")])
def test_an_error_of_the_display_never_reaches_the_work(tmp_path: Path, error: Exception) -> None:
    display = Broken(error)
    with claim(tmp_path / "a.json", Worker()) as held:
        reporter = Reporter(display, held, FAMILY, lambda: "")
        reporter.start("train", 10)
        reporter.step(1)
        reporter.advance(1)
        reporter.finish()
    assert display.calls == 1  # then it is dropped


def test_training_is_stopped_by_its_loop_and_everything_else_here(tmp_path: Path) -> None:
    with claim(tmp_path / "a.json", Worker()) as held:
        reporter = Reporter(Progress(), held, FAMILY, lambda: "SIGTERM")
        reporter.start("train", 10)
        reporter.step(1)  # the loop writes a checkpoint first
        reporter.start("predict adamw", 10)
        with pytest.raises(Stopped, match="SIGTERM: stopped before the end of predict adamw"):
            reporter.advance(1)


def test_a_lost_claim_ends_training_too(tmp_path: Path) -> None:
    with claim(tmp_path / "a.json", Worker()) as held:
        reporter = Reporter(Progress(), held, FAMILY, lambda: "")
        reporter.start("train", 10)
        held.lost = True
        with pytest.raises(Lost):
            reporter.step(1)


def test_the_claim_shows_where_the_work_is(tmp_path: Path) -> None:
    with claim(tmp_path / "a.json", Worker(), seconds=0.8) as held:
        Reporter(Progress(), held, FAMILY, lambda: "").start("train", 10, 4)
        for _ in range(50):
            held._over.wait(0.05)
            (shown,) = read_claims(tmp_path).values()
            if "step" in shown:
                break
        assert (shown["stage"], shown["step"], shown["steps"]) == ("train", 4, 10)
        assert shown["fraction"] == pytest.approx(0.8 * 0.4)
