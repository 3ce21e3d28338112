"""Workers that draw: they end with their parent, and no two figures of a report share a file, a title or a colour."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from patience import until

from analysis import report
from analysis.figures import reliability
from analysis.figures.panels import looks
from analysis.figures.style import colour
from analysis.statistics.study import study

ROOT = Path(__file__).parents[3]
SLOW = """
import sys, time
from pathlib import Path
from analysis import report

def draw(study, section):
    time.sleep(600)

if __name__ == "__main__":
    report.FIGURES = {"one": draw, "two": draw}
    report.write_report(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return not re.search(r"^State:\s+Z", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="it looks for processes in /proc")
def test_workers_end_with_a_report_that_is_killed(store, tmp_path):
    for variant in ("a", "b"):
        store.add(store.spec(variant=variant))
    (tmp_path / "slow.py").write_text(SLOW)
    command = [sys.executable, str(tmp_path / "slow.py"), str(store.root), str(tmp_path / "report")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True)
    try:
        until(lambda: len(children(parent.pid)) >= min(2, os.cpu_count() or 1))
        time.sleep(1)
        workers = children(parent.pid)
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    until(lambda: not any(map(alive, workers)))


def test_figures_of_alike_variants_have_names_and_titles_of_their_own(store):
    for variant in ("lr1e+3", "lr1e-3", "lr1e_3", "LR1E_3"):
        store.add(store.spec(variant=variant))
    whole = study(store.root)
    drawn = [item for section in whole.sections for item in reliability.draw(whole, section)[0]]
    assert len({item.name.lower() for item in drawn}) == 4
    titles = {" ".join(item.figure._suptitle.get_text().split()) for item in drawn}
    assert len(titles) == 4 and any("variant lr1e+3, notes" in title for title in titles)


def test_no_two_methods_share_a_colour(store):
    assert len({colour(number) for number in range(60)}) == 60
    for number in range(30):
        store.add(store.spec(f"method_{number}"), {"nll": 1.0})
    style = looks(study(store.root))
    assert len({look["color"] for look in style.values()}) == len(style) == 30


def test_every_figure_and_table_is_in_the_list_of_a_report():
    """A new file of either kind that nobody lists would never be shown."""
    kinds = {draw.__module__.rsplit(".", 1)[-1] for draw in report.FIGURES.values()}
    files = {file.stem for file in (ROOT / "analysis" / "figures").glob("*.py")}
    assert files - {"__init__", "gallery", "panels", "style"} == kinds
