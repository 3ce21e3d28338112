"""``bench report``: tables, figures and the page of a runs folder, from its records only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.figures import (
    clock,
    cost,
    draws,
    overhead,
    rank_map,
    ranks,
    reliability,
    results,
    tau,
    tradeoff,
)
from analysis.figures.gallery import draw_all
from analysis.figures.panels import Draw
from analysis.page.write import write_page
from analysis.statistics.study import Study, study
from analysis.tables import costs, curves, differences, headline, optimum, seed_rows, settings, tuning, variants
from analysis.tables import ranks as rank_tables
from analysis.tables import results as result_tables
from analysis.tables.formats.latex import results_latex
from analysis.tables.formats.markdown import escape
from analysis.tables.formats.table import Csv, Table, show
from analysis.tables.formats.text import Value, check_folder, write_text
from analysis.tables.leaderboard import COLUMNS, leaderboard_rows
from analysis.tables.preamble import preamble


def _leaderboard(study: Study) -> tuple[list[dict[str, Value]], list[str]]:
    return leaderboard_rows(study.runs.results), []


WRITTEN = ".written"  # in the report's folder: its tables and figures, for the next report there

LEADERBOARD = Table("", "", _leaderboard, csv=Csv("results.csv", COLUMNS, lambda _, rows: rows))

TABLES: tuple[Table, ...] = (
    headline.TABLE,
    variants.TABLE,
    result_tables.TABLE,
    optimum.TABLE,
    seed_rows.DETECTION,
    seed_rows.FURTHER,
    rank_tables.TABLE,
    differences.TABLE,
    costs.TABLE,
    settings.TABLE,
    tuning.TABLE,
    curves.TABLE,
    LEADERBOARD,
)
"""The tables of a report, in their order. Another is a file in ``analysis/tables`` and a line here."""

FIGURES: Mapping[str, Draw] = {
    "Results by task": results.draw,
    "Interpolating between the mean and the posterior": tau.draw,
    "Number of draws": draws.draw,
    "Accuracy and calibration": tradeoff.draw,
    "Reliability": reliability.draw,
    "Ranks by task": rank_map.draw,
    "Ranks over tasks": ranks.draw,
    "Against the clock": clock.draw,
    "Quality and cost": cost.draw,
    "Cost of a training step": overhead.draw,
}
"""The kinds of figure, in their order. Another is a file in ``analysis/figures`` and a line here."""


def write_report(runs: Path, out: Path, baseline: str | None = None, main_variant: str | None = None) -> list[Path]:
    """Write ``report.html``, ``tables.md``, and the folders ``tables`` and ``figures``, in place of an earlier report.

    Args:
        runs: the store.
        out: where to.
        baseline: the method that differences and relative costs are taken to; ``BASELINE`` by default.
        main_variant: the variant of the settings that opens the report; by default the one with most results.

    Returns:
        The files, all under ``out``.

    Raises:
        ValueError: ``out`` cannot be a folder; there is no result under ``runs``, or none of the baseline or variant.
    """
    check_folder(out)
    found = study(runs, baseline, main_variant)
    shown = [show(table, found) for table in TABLES]
    files = [write_text(out / "tables" / part.csv[0], part.csv[1]) for part in shown if part.csv is not None]
    files.append(write_text(out / "tables" / "table1.tex", results_latex(found.once(result_tables.compute)[0])))
    kinds = draw_all(FIGURES, found, out / "figures")
    notes = [*(note for part in shown for note in part.notes), *(note for kind in kinds for note in kind.notes)]
    pictures = []
    for kind in kinds:
        files += kind.files
        pictures += [f"## {kind.heading}\n"] if kind.pictures else []
        pictures += [f"![{kind.heading}](figures/{p.name}.png)\n\n{escape(p.caption)}\n" for p in kind.pictures]
    opening, *rest = (part.markdown for part in shown)
    parts = [
        "# Report\n",
        opening,
        "## What was run\n",
        preamble(found.runs),
        *rest,
        *pictures,
        "## Not shown\n" if notes else "",
        *(f"- {escape(note)}" for note in dict.fromkeys(notes)),
    ]
    page = write_page(found, out, kinds, out / "figures", notes)
    tables = write_text(out / "tables.md", "\n".join(part for part in parts if part) + "\n")
    _replace(out, files)
    return [tables, page, *files]


def _replace(out: Path, files: Sequence[Path]) -> None:
    """Note the tables and figures of this report, and remove those that an earlier one noted and this one lacks."""
    note, now = out / WRITTEN, sorted(file.relative_to(out).as_posix() for file in files)
    before = note.read_text(errors="replace").splitlines() if note.is_file() else []
    for name in set(before) - set(now):
        if re.fullmatch(r"(tables|figures)/[^/]+", name):
            (out / name).unlink(missing_ok=True)
    write_text(note, "".join(f"{name}\n" for name in now))
