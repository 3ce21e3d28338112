"""Write the demo's tables into README.md and docs/demo.md, between their markers.

    make demo && python -m tools.write_demo --report report --minutes MINUTES
    make ablations && python -m tools.write_demo --ablations report/ablations
    python -m tools.write_demo --check

Everything between ``<!-- demo: NAME -->`` and ``<!-- /demo -->`` on a page is replaced by the part of that name. Parts
are made of ``leaderboard.csv``, which ``make demo`` writes, and of files in ``results/demo``, which are copied from
reports: so the pages can be written again, and checked, from a clone.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from analysis.records.origin import DISQUALIFYING
from analysis.records.published import AVERAGE
from analysis.statistics.metric import metric_of
from analysis.tables.formats.markdown import GAP, Markup, table
from analysis.tables.formats.marks import JUDGED_BY, MARKS
from analysis.tables.variants import counts, markdown, parts, read_outcomes
from bench.method import METHODS
from bench.metrics import EXCESS_NLL, Metric
from tools.pages import ROOT, write

PAGES = ("README.md", "docs/demo.md")
SHOWN = ("accuracy", "ece", "nll", EXCESS_NLL.name)
COPIED = ("variants.csv", "optimum.csv")
DRAWN = ("tau", "clock")
Row = Mapping[str, str]


class Cell(NamedTuple):
    """A number of a table: mean and spread in the metric's own units, whether it may be best, and its marks."""

    mean: float
    spread: str = ""
    ranked: bool = True
    mark: str = ""


class Demo:
    """The results of one run of the demo, read from the files that the pages are made of.

    Raises:
        FileNotFoundError: one of them is missing.
    """

    def __init__(self, root: Path) -> None:
        results = root / "results" / "demo"
        self.board = [row for row in _read(root / "leaderboard.csv") if row["model"] == "embedded"]
        self.ablations = _read(results / "ablations.csv")
        self.outcomes = read_outcomes(_read(results / "variants.csv"))
        self.optimum = _read(results / "optimum.csv")
        self.run = json.loads((results / "run.json").read_text())

    @property
    def variants(self) -> list[str]:
        """The variants, the main one first."""
        return [one.section.variant for one in self.outcomes]

    def tasks(self, variant: str) -> list[str]:
        """The tasks of a variant."""
        return list(dict.fromkeys(row["task"] for row in self.optimum if row["variant"] == variant))

    def methods(self, variant: str) -> list[str]:
        """The rows of a variant, in the order of the report."""
        return list(dict.fromkeys(row["method"] for row in self.optimum if row["variant"] == variant))

    def cells(self, variant: str, metric: Metric) -> dict[tuple[str, str], Cell]:
        """The cells of a table by method and task; the average over the tasks has the marks of all of them."""
        outcome = next(one for one in self.outcomes if one.section.variant == variant)
        marks = {
            (place.method, place.task): MARKS[one.verdict]
            for place, one in outcome.found.items()
            if one.shown and place.metric == JUDGED_BY[metric.name]
        }
        trained = {outcome.baseline, *(place.method for place in outcome.found)}
        spreads = self._intervals(variant) if metric.name == EXCESS_NLL.name else {}
        cells = {}
        for row in self.board:
            if (row["variant"], row["metric"]) == (variant, metric.name):
                place = row["method"], row["task"]
                spread = spreads.get(place) or (f"± {metric.show(float(row['sem']))}" if row["sem"] else "")
                ranked = place[0] in trained and not set(row["flags"].split()) & set(DISQUALIFYING)
                cells[place] = Cell(float(row["mean"]), spread, ranked, marks.get(place, ""))
        tasks = self.tasks(variant)
        for method in self.methods(variant):
            there = [cells[method, task] for task in tasks]
            mean, ranked = fmean(cell.mean for cell in there), all(cell.ranked for cell in there)
            cells[method, AVERAGE] = Cell(mean, "", ranked, "".join(sorted(cell.mark for cell in there)))
        return cells

    def _intervals(self, variant: str) -> dict[tuple[str, str], str]:
        show = metric_of(EXCESS_NLL.name).show
        return {
            (row["method"], row["task"]): f"[{show(float(row['low']))}, {show(float(row['high']))}]"
            for row in self.optimum
            if row["variant"] == variant
        }

    def seeds(self, variant: str) -> int:
        """The number of seeds of a variant."""
        (count,) = {int(row["n_seeds"]) for row in self.board if row["variant"] == variant}
        return count


def averages(demo: Demo, variant: str) -> str:
    """The README's table of a variant: averages over the tasks, a column for each metric."""
    metrics = [metric_of(name) for name in SHOWN]
    columns = {metric: demo.cells(variant, metric) for metric in metrics}
    rows = [
        [_title(method), *(_text(columns[metric], metric, method, AVERAGE) for metric in metrics)]
        for method in demo.methods(variant)
    ]
    count = len(demo.tasks(variant))
    head = f"`{variant}`, {demo.seeds(variant)} seeds: average of {count} tasks"
    return table([Markup(head), *(metric.heading for metric in metrics)], rows)


def by_task(demo: Demo, variant: str) -> str:
    """A table for each metric of a variant: methods down, tasks across, then their average."""
    columns = [*demo.tasks(variant), AVERAGE]
    tables = []
    for metric in map(metric_of, SHOWN):
        cells = demo.cells(variant, metric)
        rows = [[_title(m), *(_text(cells, metric, m, column) for column in columns)] for m in demo.methods(variant)]
        tables.append(table([Markup(f"`{variant}`: {metric.heading}"), *columns], rows))
    return "\n".join(tables)


def _title(method: str) -> str:
    return METHODS.get(method).title if method in METHODS else method


def _text(cells: Mapping[tuple[str, str], Cell], metric: Metric, method: str, column: str) -> str:
    cell = cells[method, column]
    shown = metric.show(cell.mean)
    means = [one.mean for (_, place), one in cells.items() if place == column and one.ranked]
    best = cell.ranked and shown == metric.show(max(means, key=lambda mean: mean * metric.better))
    return Markup(" ".join(filter(None, [f"**{shown}**" if best else shown, cell.spread, cell.mark])))


def differences(demo: Demo) -> str:
    """What each variant shows, and what the main one's differences become in the other."""
    return "\n".join(map(markdown, parts(demo.outcomes)))


def summary(demo: Demo) -> str:
    """The differences in numbers, and what the other settings do for the baseline itself."""
    return "".join(f"- {line}\n" for line in [*counts(demo.outcomes), *_levels(demo)])


def _levels(demo: Demo) -> Iterator[str]:
    """The baseline's averages in the main variant and in each other, and where the latter beat the main one's best."""
    first, *others = demo.outcomes
    for other in others:
        names, changes, beaten = (first.section.variant, other.section.variant), [], []
        for metric in map(metric_of, SHOWN):
            before, after = (demo.cells(name, metric) for name in names)
            pair = (metric.show(cells[first.baseline, AVERAGE].mean) for cells in (before, after))
            changes.append(f"{metric.title} {' to '.join(pair)}")
            better = [
                task
                for task in demo.tasks(names[0])
                if metric.better * after[first.baseline, task].mean
                > max(metric.better * cell.mean for (_, place), cell in before.items() if place == task and cell.ranked)
            ]
            beaten.append(f"{metric.title} on {', '.join(better) or 'no task'}")
        yield f"{first.baseline} itself, {names[0]} to {names[1]}, average over the tasks: {'; '.join(changes)}."
        yield (
            f"{first.baseline} of {names[1]} has a better mean than every trained method of {names[0]} in "
            f"{'; '.join(beaten)}."
        )


def ablations(demo: Demo) -> str:
    """The ablations' averages over tasks, with the variants of the settings in one table."""
    places = dict.fromkeys((row["variant"], row["method"]) for row in demo.ablations)
    metrics = [metric_of(name) for name in SHOWN]
    rows = []
    for variant, method in sorted(places, key=lambda place: place[0]):
        mine = [row for row in demo.ablations if (row["variant"], row["method"]) == (variant, method)]
        texts = [_average([row for row in mine if row["metric"] == metric.name], metric) for metric in metrics]
        rows.append([variant, _title(method), mine[0]["n_seeds"], *texts])
    return table(["variant", "method", "seeds", *(metric.heading for metric in metrics)], rows)


def _average(rows: Sequence[Row], metric: Metric) -> str:
    return metric.show(fmean(float(row["mean"]) for row in rows)) if rows else GAP


def origin(demo: Demo) -> str:
    """Where, when and how long the demo ran."""
    said = {name: _listed(row[name] for row in demo.board) for name in ("commit", "device", "date")}
    minutes = demo.run.get("minutes")
    took = f"It took {minutes:.1f} minutes with {demo.run['workers']} workers." if minutes else "It was not timed."
    return f"The run was made at commit {said['commit']} on {said['device']}, {said['date']}. {took}\n"


def _listed(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def written(demo: Demo) -> dict[str, str]:
    """Every part by the name of its marker."""
    found = {"origin": origin(demo), "differences": differences(demo), "summary": summary(demo)}
    found["ablations"] = ablations(demo)
    for variant in demo.variants:
        found[f"{variant}-averages"] = averages(demo, variant)
        found[f"{variant}-tasks"] = by_task(demo, variant)
    return found


def take_over(report: Path, root: Path, run: Mapping[str, float]) -> None:
    """Copy the files of the demo's report that the pages are made of, and note how long the run took."""
    results = root / "results" / "demo"
    results.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        shutil.copyfile(report / "tables" / name, results / name)
    (results / "run.json").write_text(json.dumps(run) + "\n")
    (variant,) = {row["variant"] for row in _read(report / "tables" / COPIED[0])[:1]}  # the main one is first
    for kind in DRAWN:
        figure = report / "figures" / f"{kind}-clean-embedded-{variant}.png"
        shutil.copyfile(figure, root / "docs" / "figures" / f"demo_{kind}.png")


def _read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--report", type=Path, help="take the demo's results over from this report first")
    parser.add_argument("--ablations", type=Path, help="take the ablations' results over from this report first")
    parser.add_argument("--minutes", type=float, help="with --report: the minutes that `make demo` said")
    parser.add_argument("--workers", type=int, default=2, help="with --minutes: the number of workers")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.report is not None:
        run = {} if options.minutes is None else {"minutes": options.minutes, "workers": options.workers}
        take_over(options.report, options.root, run)
    if options.ablations is not None:
        shutil.copyfile(
            options.ablations / "tables" / "results.csv", options.root / "results" / "demo" / "ablations.csv"
        )
    return write(options.root, PAGES, "demo", written(Demo(options.root)), options.check)


if __name__ == "__main__":
    raise SystemExit(main())
