"""The pages' tables of results/small are those that its records give, without network, weights or a GPU."""

from __future__ import annotations

import csv

import pytest

from analysis.statistics.study import study
from analysis.tables.leaderboard import leaderboard_rows
from tools import write_results
from tools.write_results import ROOT, pages, written


def test_the_pages_are_what_the_records_say() -> None:
    found = list(pages(ROOT))
    assert all(old == new for _, old, new in found)
    assert any(" ▲" in new and "**holds**" in new for _, _, new in found)


def test_a_stale_page_is_written_again() -> None:
    page = "before\n<!-- small: held -->\nold\n<!-- /small -->\nafter\n"
    assert written(page, {"held": "new\n\n"}) == page.replace("old", "\nnew\n")
    assert write_results.MARKER.sub("", page) == "before\n\nafter\n"


def test_the_leaderboard_lists_them_first() -> None:
    with (ROOT / "leaderboard.csv").open(newline="") as stream:
        listed = list(csv.DictReader(stream))
    real = [row for row in listed if row["model"] != "embedded"]
    assert real and listed[: len(real)] == real
    fresh = leaderboard_rows(study(ROOT / "results" / "small").runs.results)
    assert [row["keys"] for row in real] == [row["keys"] for row in fresh]
    assert [float(row["mean"]) for row in real] == pytest.approx([row["mean"] for row in fresh], abs=1e-6)
