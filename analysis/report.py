"""``bench report``: tables, differences and figures of a runs folder, from its records only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from analysis import figure_clock, figure_results, figure_tau
from analysis.compare import compare, differences, differences_csv
from analysis.costs import costs, costs_csv
from analysis.figures import Draw
from analysis.files import csv_text, write_text
from analysis.labels import BASELINE
from analysis.latex import results_latex
from analysis.leaderboard import COLUMNS, leaderboard_rows
from analysis.load import load
from analysis.preamble import preamble
from analysis.settings import settings
from analysis.style import save
from analysis.tables import results, results_csv

FIGURES: Mapping[str, Draw] = {
    "Results by task": figure_results.draw,
    "Interpolating between the mean and the posterior": figure_tau.draw,
    "Against the clock": figure_clock.draw,
}


def write_report(runs: Path, out: Path, baseline: str = BASELINE) -> list[Path]:
    """Write ``tables.md``, ``results.csv``, ``differences.csv`` and the figures into ``out``; returns the files.

    Raises:
        ValueError: there is no result under ``runs``.
    """
    loaded = load(runs)
    found, notes = compare(loaded, baseline)
    written = [
        write_text(out / "results.csv", csv_text(COLUMNS, leaderboard_rows(loaded.results))),
        write_text(out / "differences.csv", differences_csv(found)),
        write_text(out / "table1.csv", results_csv(loaded, baseline)),
        write_text(out / "table1.tex", results_latex(loaded, baseline)),
        write_text(out / "costs.csv", costs_csv(loaded, baseline)),
    ]
    shown = []
    for heading, draw in FIGURES.items():
        drawn, missing = draw(loaded, baseline)
        notes += missing
        shown += [f"## {heading}\n"] if drawn else []
        for figure in drawn:
            written += save(figure.figure, out / figure.name)
            shown.append(f"![{heading}]({figure.name}.png)\n\n{figure.caption}\n")
    parts = [
        "# Report\n",
        preamble(loaded),
        "## Results\n",
        f"Mean ± standard error over seeds (change against {baseline}); `-` is a missing run. Bold is the best "
        "displayed mean of a trained method without a flag, which says nothing of chance: see the differences. "
        "In brackets: missing seeds, and the flags `dirty` (code in no commit), `partial` (dataset), `mixed-devices`, "
        "`no-commit` (code outside a checkout), `fit-missing`.\n",
        results(loaded, baseline),
        "## Differences\n" if found else "",
        differences(found, baseline),
        *shown,
        "## Costs\n",
        f"Means over seeds, from the records; in parentheses how many times the cost of {baseline}. Costs of a "
        "posterior include those of all fits it was made from (a base, an ensemble's members): seconds and passes add "
        "up, memory is the largest peak. Mid-run evaluation is not counted. A pass is one example passed forward.\n",
        costs(loaded, baseline),
        "## Settings\n",
        settings(loaded, baseline),
        "## Not shown\n" if notes else "",
        *(f"- {note}" for note in notes),
    ]
    tables = write_text(out / "tables.md", "\n".join(part for part in parts if part) + "\n")
    return [tables, *written]
