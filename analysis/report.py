"""``bench report``: tables, differences, figures and the page of a runs folder, from its records only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from analysis.figures import clock, cost, draws, overhead, rank_map, reliability, tau, tradeoff
from analysis.figures import ranks as ranks_figure
from analysis.figures import results as results_figure
from analysis.figures.gallery import draw_all
from analysis.figures.panels import Draw
from analysis.page.write import write_page
from analysis.records.load import load
from analysis.records.order import BASELINE
from analysis.statistics.curves import curves, tau_csv
from analysis.tables.costs import costs, costs_csv
from analysis.tables.differences import compare, differences, differences_csv
from analysis.tables.files import csv_text, write_text
from analysis.tables.latex import results_latex
from analysis.tables.leaderboard import COLUMNS, leaderboard_rows
from analysis.tables.ood import detections
from analysis.tables.preamble import preamble
from analysis.tables.ranks import rankings, ranks, ranks_csv
from analysis.tables.recomputed import recompute, rows_csv, rows_table
from analysis.tables.results import results, table1_csv
from analysis.tables.settings import settings
from analysis.tables.tuning import tuning

FIGURES: Mapping[str, Draw] = {
    "Results by task": results_figure.draw,
    "Interpolating between the mean and the posterior": tau.draw,
    "Number of draws": draws.draw,
    "Accuracy and calibration": tradeoff.draw,
    "Reliability": reliability.draw,
    "Ranks by task": rank_map.draw,
    "Ranks over tasks": ranks_figure.draw,
    "Against the clock": clock.draw,
    "Quality and cost": cost.draw,
    "Cost of a training step": overhead.draw,
}


FURTHER_TEXT = (
    "Recomputed from the stored predictions (mean ± standard error over seeds); `analysis/statistics/quality.py` "
    "has the definitions and sources. Bins are 15 unless a heading says otherwise; the debiased ECE may be negative.\n"
)
RANKS_TEXT = (
    "Ranks by displayed means over seeds; 1 is best, ties share their mean rank. Ranked are trained methods that have "
    "every task and no disqualifying flag.\n"
)
OOD_TEXT = (
    "A fit scored on another task than it was trained on (trained → scored). Detection tells the examples of its own "
    "task (the positive class) from those of the other; FPR95 is the false positive rate at the threshold that keeps "
    "95 % of its own. Scores: entropy of the mixture, its largest probability, and mutual information (MI), which "
    "needs more than one draw.\n"
)
TUNING_TEXT = (
    "What `bench tune` tried: each candidate trained on the training split less a hold-out, and scored on that; means "
    "over seeds. **Bold** is the lowest mean of a method's candidates; the grid's criterion (NLL unless it says "
    "otherwise) decides. No reported split is in it.\n"
)


def write_report(runs: Path, out: Path, baseline: str | None = None) -> list[Path]:
    """Write ``report.html``, ``tables.md``, ``results.csv``, ``differences.csv``, ``tau.csv`` and the figures.

    Args:
        runs: the store.
        out: where to.
        baseline: what differences and relative costs are taken to; ``BASELINE`` unless given.

    Returns:
        The files, all in ``out``.

    Raises:
        ValueError: there is no result under ``runs``, or none of the method that was asked for as baseline.
    """
    loaded = load(runs)
    methods = sorted({group.spec.method for group in loaded.results})
    if baseline is not None and baseline not in methods:
        raise ValueError(f"There is no result of the baseline '{baseline}' in {runs}. It has {', '.join(methods)}.")
    baseline = baseline or BASELINE
    found, notes = compare(loaded, baseline)
    (further, more), (away, lost), (ranked, left_out) = (
        recompute(loaded),
        detections(loaded),
        rankings(loaded, baseline),
    )
    notes += [*more, *lost, *left_out]
    written = [
        write_text(out / "results.csv", csv_text(COLUMNS, leaderboard_rows(loaded.results))),
        write_text(out / "differences.csv", differences_csv(found)),
        write_text(out / "table1.csv", table1_csv(loaded, baseline)),
        write_text(out / "table1.tex", results_latex(loaded, baseline)),
        write_text(out / "costs.csv", costs_csv(loaded, baseline)),
        write_text(out / "metrics.csv", rows_csv(loaded, further, baseline)),
        write_text(out / "ranks.csv", ranks_csv(ranked)),
        *([write_text(out / "ood.csv", rows_csv(loaded, away, baseline))] if away else []),
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
        f"Mean ± standard error over seeds (change against {baseline}); `-` is a missing run. Bold is the best "
        "displayed mean of a trained method without a flag, which says nothing of chance: see the differences. "
        "In brackets: missing seeds, and the flags `dirty` (code in no commit), `partial` (dataset), `mixed-devices`, "
        "`no-commit` (code outside a checkout), `fit-missing`.\n",
        results(loaded, baseline),
        *(["## Out of distribution\n", OOD_TEXT, rows_table(loaded, away, baseline)] if away else []),
        "## Further metrics\n",
        FURTHER_TEXT,
        rows_table(loaded, further, baseline),
        *(["## Ranks\n", RANKS_TEXT, ranks(ranked)] if ranked else []),
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
        *(["## Tuning\n", TUNING_TEXT, tuning(loaded, baseline)] if loaded.tunes else []),
        "## Not shown\n" if notes else "",
        *(f"- {note}" for note in notes),
    ]
    written.append(write_page(loaded, out, kinds, notes, baseline))
    tables = write_text(out / "tables.md", "\n".join(part for part in parts if part) + "\n")
    return [tables, *written]
