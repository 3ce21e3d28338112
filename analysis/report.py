"""``bench report``: tables, differences, figures and the page of a runs folder, from its records only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from analysis import (
    figure_clock,
    figure_cost,
    figure_draws,
    figure_overhead,
    figure_rank_map,
    figure_reliability,
    figure_results,
    figure_tau,
    figure_tradeoff,
)
from analysis.compare import compare, differences, differences_csv
from analysis.costs import costs
from analysis.curves import curves, tau_csv
from analysis.figures import Draw
from analysis.files import csv_text, write_text
from analysis.gallery import draw_all
from analysis.labels import BASELINE
from analysis.leaderboard import COLUMNS, leaderboard_rows
from analysis.load import load
from analysis.page import write_page
from analysis.preamble import preamble
from analysis.settings import settings
from analysis.tables import results

FIGURES: Mapping[str, Draw] = {
    "Results by task": figure_results.draw,
    "Interpolating between the mean and the posterior": figure_tau.draw,
    "Number of draws": figure_draws.draw,
    "Accuracy and calibration": figure_tradeoff.draw,
    "Reliability": figure_reliability.draw,
    "Ranks by task": figure_rank_map.draw,
    "Against the clock": figure_clock.draw,
    "Quality and cost": figure_cost.draw,
    "Cost of a training step": figure_overhead.draw,
}


def write_report(runs: Path, out: Path, baseline: str = BASELINE) -> list[Path]:
    """Write ``report.html``, ``tables.md``, ``results.csv``, ``differences.csv``, ``tau.csv`` and the figures.

    Returns:
        The files, all in ``out``.

    Raises:
        ValueError: there is no result under ``runs``.
    """
    loaded = load(runs)
    found, notes = compare(loaded, baseline)
    written = [
        write_text(out / "results.csv", csv_text(COLUMNS, leaderboard_rows(loaded.results))),
        write_text(out / "differences.csv", differences_csv(found)),
        write_text(out / "tau.csv", tau_csv(curves([*loaded.results, *loaded.sweeps]))),
    ]
    shown = []
    kinds = draw_all(FIGURES, loaded, out, baseline)
    for kind in kinds:
        notes += kind.notes
        written += kind.files
        shown += [f"## {kind.heading}\n"] if kind.pictures else []
        shown += [f"![{kind.heading}]({picture.name}.png)\n\n{picture.caption}\n" for picture in kind.pictures]
    parts = [
        "# Report\n",
        preamble(loaded),
        "## Results\n",
        "Mean ± standard error over seeds; `-` is a missing run. Bold is the best displayed mean of a trained method, "
        "which says nothing of chance: see the differences.\n",
        results(loaded, baseline),
        "## Differences\n" if found else "",
        differences(found, baseline),
        *shown,
        "## Costs\n",
        "Means over seeds, from the records. Training includes that of the posteriors a method starts from; mid-run "
        "evaluation is not counted. Memory is the peak of the process in training or prediction.\n",
        costs(loaded, baseline),
        "## Settings\n",
        settings(loaded, baseline),
        "## Not shown\n" if notes else "",
        *(f"- {note}" for note in notes),
    ]
    written.append(write_page(loaded, out, kinds, notes, baseline))
    tables = write_text(out / "tables.md", "\n".join(part for part in parts if part) + "\n")
    return [tables, *written]
