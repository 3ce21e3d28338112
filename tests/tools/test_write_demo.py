"""The demo's pages from a small set of results with known averages, marks and intervals."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from analysis.tables import optimum, variants
from analysis.tables.leaderboard import COLUMNS
from tools.write_demo import main

MEANS = {  # variant -> method -> (accuracy, ece, nll) on tasks a and b; the optimum's NLL is 0.3
    "long": {"optimum": (0.9, 0.02, 0.3), "adamw": (0.8, 0.10, 0.7), "ivon": (0.84, 0.08, 0.5)},
    "tuned": {"optimum": (0.9, 0.02, 0.3), "adamw": (0.8, 0.06, 0.5), "ivon": (0.79, 0.05, 0.49)},
}
BETTER = {("long", "ivon", "a", "nll"), ("long", "ivon", "b", "nll"), ("tuned", "ivon", "b", "nll")}
WORSE = {("tuned", "ivon", "a", "accuracy")}
MARKERS = (
    "origin",
    "differences",
    "summary",
    "long-averages",
    "tuned-averages",
    "long-tasks",
    "tuned-tasks",
    "ablations",
)


def text(columns: tuple[str, ...], rows: list[dict[str, object]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout with the results of a run in it, and pages that ask for every part."""
    where = {"protocol": "clean", "model": "embedded"}
    board: list[dict[str, object]] = []
    optima: list[dict[str, object]] = []
    findings: list[dict[str, object]] = []
    origin = {"commit": "abc", "device": "Abacus", "date": "2026-01-01"}
    for variant, methods in MEANS.items():
        for method, (accuracy, ece, nll) in methods.items():
            for task, shift in (("a", 0.0), ("b", 0.02)):
                place = {**where, "variant": variant, "task": task, "method": method}
                values = {"accuracy": accuracy + shift, "ece": ece, "nll": nll, "excess_nll": nll - 0.3}
                for metric, mean in values.items():
                    board.append({**place, **origin, "metric": metric, "mean": mean, "sem": 0.01, "n_seeds": 5})
                optima.append({**place, "excess": nll - 0.3, "low": nll - 0.35, "high": nll - 0.25, "n_seeds": 5})
                for metric in ("accuracy", "nll") if method == "ivon" else ():
                    asked = (variant, method, task, metric)
                    verdict = "better" if asked in BETTER else "worse" if asked in WORSE else "no difference shown"
                    shown = {"baseline": "adamw", "metric": metric, "difference": -0.1, "n_seeds": 5, "p_holm": 0.01}
                    findings.append({**place, **shown, "verdict": verdict})
    (tmp_path / "leaderboard.csv").write_text(text(COLUMNS, board))
    tables = tmp_path / "report" / "tables"
    tables.mkdir(parents=True)
    (tables / "variants.csv").write_text(text(variants.COLUMNS, findings))
    (tables / "optimum.csv").write_text(text(optimum.COLUMNS, optima))
    (tables / "results.csv").write_text(text(COLUMNS, board))
    (tmp_path / "report" / "figures").mkdir()
    for kind in ("tau", "clock"):
        (tmp_path / "report" / "figures" / f"{kind}-clean-embedded-long.png").write_bytes(f"{kind} drawn".encode())
    (tmp_path / "docs" / "figures").mkdir(parents=True)
    asking = "".join(f"Before {name}.\n<!-- demo: {name} -->\nold\n<!-- /demo -->\n" for name in MARKERS)
    for page in ("README.md", "docs/demo.md"):
        (tmp_path / page).write_text(asking)
    return tmp_path


def lines(page: str, start: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith(start)
    ]


def test_the_pages_have_averages_marks_intervals_and_what_tuning_takes_away(clone: Path) -> None:
    report = clone / "report"
    asked = ["--report", str(report), "--ablations", str(report), "--minutes", "9.5", "--root", str(clone)]
    assert main(asked) == 0
    page = (clone / "README.md").read_text()
    assert "old" not in page and "commit abc on Abacus, 2026-01-01. It took 9.5 minutes with 2 workers." in page
    for kind in ("tau", "clock"):
        assert (clone / "docs" / "figures" / f"demo_{kind}.png").read_text() == f"{kind} drawn"
    ivon = lines(page, "| IVON")
    assert ivon[0][0] == "IVON" and ["IVON", "**85.0**", "**8.0**", "**0.500** ▲▲", "**0.200** ▲▲"] in ivon
    assert ["IVON", "80.0 ▼", "**5.0**", "**0.490** ▲", "**0.190** ▲"] in ivon
    assert ["IVON", "79.0 ± 1.0 ▼", "81.0 ± 1.0", "80.0 ▼"] in ivon
    assert ["IVON", "**0.190** [0.140, 0.240]", "**0.190** [0.140, 0.240] ▲", "**0.190** ▲"] in ivon
    assert lines(page, "| optimum")[0][:2] == ["optimum", "91.0"]  # a reference is never best
    assert "NLL (nats) 0.700 to 0.500" in page
    assert "in Accuracy (%) on no task; ECE × 100 on a, b; NLL (nats) on no task" in page  # AdamW tuned, IVON long
    assert "Of the 2 differences that long shows among the 4 comparisons that both have, tuned shows 1" in page
    assert lines(page, "| tuned") == [
        ["tuned", "optimum", "5", "91.0", "2.0", "0.300", "0.000"],
        ["tuned", "AdamW", "5", "81.0", "6.0", "0.500", "0.200"],
        ["tuned", "IVON", "5", "80.0", "5.0", "0.490", "0.190"],
    ]
    assert main(["--check", "--root", str(clone)]) == 0


def test_a_row_with_a_disqualifying_flag_is_never_best(clone: Path) -> None:
    with (clone / "leaderboard.csv").open() as stream:
        board: list[dict[str, object]] = [
            {**row, "flags": "dirty" if row["method"] == "ivon" else ""} for row in csv.DictReader(stream)
        ]
    (clone / "leaderboard.csv").write_text(text(COLUMNS, board))
    report = str(clone / "report")
    main(["--report", report, "--ablations", report, "--root", str(clone)])
    page = (clone / "README.md").read_text()
    assert lines(page, "| IVON")[0][:2] == ["IVON", "85.0"] and ["AdamW", "**81.0**"] in [
        line[:2] for line in lines(page, "| AdamW")
    ]


def test_a_page_that_is_out_of_date_fails_the_check(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = clone / "report"
    main(["--report", str(report), "--ablations", str(report), "--root", str(clone)])
    page = clone / "docs" / "demo.md"
    page.write_text(page.read_text().replace("0.490", "0.489"))
    capsys.readouterr()
    assert main(["--check", "--root", str(clone)]) == 1
    assert capsys.readouterr().out == "docs/demo.md is out of date\n"
    assert "0.489" in page.read_text()


def test_the_committed_pages_are_those_of_the_committed_results() -> None:
    """`python -m tools.write_demo` would change nothing."""
    assert main(["--check"]) == 0
