"""The pages' tables of results/small are those that its records give, without network, weights or a GPU."""

from __future__ import annotations

import csv

import pytest

from analysis.statistics.study import study
from analysis.tables.leaderboard import leaderboard_rows
from tools.pages import ROOT, write
from tools.write_results import PAGES, parts


def test_the_pages_are_what_the_records_say() -> None:
    found = parts(ROOT / "results" / "small")
    assert " ▲" in found["results"] and "**holds**" in found["orderings"]
    assert write(ROOT, PAGES, "small", found, check=True) == 0


def test_the_leaderboard_lists_them_first() -> None:
    with (ROOT / "leaderboard.csv").open(newline="") as stream:
        listed = list(csv.DictReader(stream))
    real = [row for row in listed if row["model"] != "embedded"]
    assert real and listed[: len(real)] == real
    fresh = leaderboard_rows(study(ROOT / "results" / "small").runs.results)
    assert [row["keys"] for row in real] == [row["keys"] for row in fresh]
    assert [float(row["mean"]) for row in real] == pytest.approx([row["mean"] for row in fresh], abs=1e-6)
