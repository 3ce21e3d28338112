"""``bench compare published``: a run compared with a paper's table, which of the paper's orderings hold here
(analysis.tables.orderings), and how its protocol differs from the paper's.

    z = (ours - published) / sqrt(sem_ours^2 + sem_published^2)

``within``: |z| <= 1.96. Both standard errors come from few seeds (3 in the paper), so this is a rough band, no test.
Where both are zero, a figure is within if it rounds to the published one. Where one is missing (a single seed, an
illegible figure, an average) there is a difference but no z and no verdict.

Deviations are read from the records, against the grid of the paper: the numbers that the paper or its code states.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from analysis.records.groups import Group, Runs, Section
from analysis.records.labels import show
from analysis.records.published import AVERAGE, METRICS, TABLE1, TABLES, Published, digits, methods, published, tasks
from analysis.statistics.metric import metric_of
from analysis.statistics.study import study
from analysis.tables import orderings
from analysis.tables.formats.markdown import GAP, Markup, bold, escape, heading, table
from analysis.tables.formats.text import Value, check_folder, csv_text, write_text
from analysis.tables.results import Block, Cell, average, blocks
from bench.specs import to_json

BAND = 1.96
COLUMNS = (
    "protocol", "model", "variant", "metric", "method", "task", "mean", "sem", "published_mean", "published_sem",
    "difference", "z", "verdict",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One of our figures and the paper's; ``ours`` is None for a missing run, ``theirs`` for an illegible figure."""

    section: Section
    metric: str
    row: str
    task: str
    ours: Cell | None
    theirs: Published | None

    @property
    def difference(self) -> float | None:
        """Ours less theirs."""
        return None if self.ours is None or self.theirs is None else self.ours.mean - self.theirs.mean

    @property
    def z(self) -> float | None:
        """The difference in standard errors of both; None where one has none, or both are 0."""
        if self.ours is None or self.theirs is None or self.ours.sem is None or self.theirs.sem is None:
            return None
        both = math.hypot(self.ours.sem, self.theirs.sem)
        return (self.ours.mean - self.theirs.mean) / both if both else None

    @property
    def verdict(self) -> str:
        """``within`` or ``outside``; blank where nothing can be said."""
        if self.ours is None or self.theirs is None or self.ours.sem is None or self.theirs.sem is None:
            return ""
        if self.z is None:
            return "within" if abs(self.ours.mean - self.theirs.mean) <= self.theirs.step / 2 else "outside"
        return "within" if abs(self.z) <= BAND else "outside"


def comparisons(runs: Runs, name: str = TABLE1) -> list[Comparison]:
    """Every figure of a published table compared with ours: one per section, metric, method, task and average."""
    found = []
    for section in runs.sections:
        groups = [group for group in runs.of(section) if group.spec.method in methods(name)]
        here = [c for block in blocks(groups) for c in _beside(section, block, groups, name)]
        found += here if any(c.ours is not None for c in here) else []
    return found


def _beside(section: Section, block: Block, groups: Sequence[Group], name: str) -> Iterator[Comparison]:
    """The comparisons of one metric; none if the paper does not have it."""
    metric = block.metric.name
    for row, method in {group.name: group.spec.method for group in groups}.items():
        ours = {column: block.cells.get((row, column)) for column in tasks(name)}
        ours[AVERAGE] = average(list(ours.values()))
        for column, cell in ours.items():
            theirs = published(name).get((metric, method, column))
            if metric in METRICS.values() and (cell is not None or theirs is not None):
                yield Comparison(section, metric, row, column, cell, theirs)


def deviations(section: Section, groups: Sequence[Group], name: str = TABLE1) -> list[str]:
    """Differences between the runs of a section and the paper's protocol, a sentence each."""
    wanted = tomllib.loads((files("bench.grids") / TABLES[name].grid).read_text())
    seen: dict[tuple[str, str, str], list[str]] = {}
    for group in groups:
        for what, paper, here in _differing(group, wanted):
            seen.setdefault((what, paper, here), []).append(f"{group.name} on {group.task}")
    found = []
    for (what, paper, here), where in seen.items():
        places = "all runs" if len(where) == len(groups) else ", ".join(dict.fromkeys(where))
        found.append(f"{what}: {paper} in the paper, {here} here ({places}).")
    flagged: dict[str, list[str]] = {}
    for group in groups:
        for flag in group.origin.flags:
            flagged.setdefault(flag, []).append(f"{group.name} on {group.task}")
    found += [f"flag {flag}: {', '.join(where)}." for flag, where in flagged.items()]
    for kind, names, there in (
        ("methods", methods(name), {group.spec.method for group in groups}),
        ("tasks", tasks(name), {group.task for group in groups}),
    ):
        missing = [one for one in names if one not in there]
        found += [f"{kind} of the paper that were not run: {', '.join(missing)}."] if missing else []
    return found


def _differing(group: Group, wanted: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(setting, value in the paper, value here) of each that differs; what the paper leaves open is not compared."""
    spec, settings = group.spec, wanted["set"]
    pairs: list[tuple[str, Any, Any]] = [
        ("protocol", wanted["protocol"], spec.protocol),
        ("split", "validation", spec.split),
        ("seeds", wanted["seeds"], group.seeds),
        ("training rows held out", 0.0, spec.fit.holdout),
    ]
    pairs += [(f"model {name}", value, getattr(spec.fit.model, name)) for name, value in wanted["model"].items()]
    train, lora = to_json(spec.fit.train), to_json(spec.fit.model.lora)
    pairs += [(f"LoRA {name}", value, lora[name]) for name, value in settings["lora"].items()]
    pairs += [(name, settings[name], value) for name, value in train.items() if name in settings]
    for fit in (spec.fit, *spec.fit.bases):
        pairs += _options(fit.method, fit.options, settings, fit.data.task)
    pairs += _options(spec.method, spec.options, settings, spec.fit.data.task)
    for name, paper, here in dict.fromkeys((n, _show(p), _show(h)) for n, p, h in pairs):
        if paper != here:
            yield name, paper, here


def _options(
    method: str, options: Mapping[str, Any], settings: Mapping[str, Any], task: str
) -> list[tuple[str, Any, Any]]:
    given = settings.get(method, {})
    stated = {**{k: v for k, v in given.items() if k != "per_task"}, **given.get("per_task", {}).get(task, {})}
    return [(f"{method}.{name}", stated[name], value) for name, value in options.items() if name in stated]


def _show(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(value, list | tuple):
        return ", ".join(_show(inner) for inner in value)
    return show(value) or "none"


def compare_published(runs: Path, out: Path | None = None, name: str = TABLE1) -> tuple[str, list[Path]]:
    """The report as Markdown, and the files written into ``out``: ``published.md``, ``published.csv`` with the figures,
    and ``orderings.csv``.

    ``name``: the table to compare with, of ``analysis.records.published.TABLES``.

    Raises:
        ValueError: there is no result under ``runs``, none of a method and task of the paper, or ``out`` is no folder.
    """
    if out is not None:
        check_folder(out)
    known = study(runs)
    loaded, source = known.runs, TABLES[name]
    found = comparisons(loaded, name)
    if not found:
        raise ValueError(
            f"{runs} holds no result of a method and task of the paper: methods {', '.join(methods(name))}; "
            f"tasks {', '.join(tasks(name))}."
        )
    ordered = orderings.orderings(known, name)
    parts = [
        f"# Comparison with {source.title}\n",
        "Ours less the published figure [z with both standard errors]: **outside** where |z| > 1.96, else within. "
        f"Three seeds make this a rough band, no test. {source.about}\n",
    ]
    for section in dict.fromkeys(c.section for c in found):
        here = [c for c in found if c.section == section]
        groups = [g for g in loaded.of(section) if g.spec.method in methods(name) and g.task in tasks(name)]
        judged = [c for c in here if c.verdict]
        within = sum(c.verdict == "within" for c in judged)
        parts += [
            heading(2, section.title),
            f"{within} of {len(judged)} figures are within.\n",
            orderings.section_text(section, ordered, name),
            "### Deviations from the paper's protocol\n",
            "".join(f"- {escape(line)}\n" for line in deviations(section, groups, name))
            or "None that the records show.\n",
            *(_markdown(metric, [c for c in here if c.metric == metric], name) for metric in METRICS.values()),
        ]
    text = "\n".join(part for part in parts if part)
    if out is None:
        return text, []
    written = [
        write_text(out / "published.md", text),
        write_text(out / "published.csv", csv_text(COLUMNS, _rows(found))),
    ]
    if ordered:
        csv = csv_text(orderings.COLUMNS, orderings.rows(ordered))
        written.append(write_text(out / "orderings.csv", csv))
    else:
        (out / "orderings.csv").unlink(missing_ok=True)  # an earlier comparison's
    return text, written


def _markdown(metric: str, here: Sequence[Comparison], name: str) -> str:
    if not here:
        return ""
    cells = {(c.row, c.task): c for c in here}
    columns = [*tasks(name), AVERAGE]
    lines = [
        [row, *(_text(cells.get((row, column)), name) for column in columns)]
        for row in dict.fromkeys(c.row for c in here)
    ]
    return f"{bold(metric_of(metric).heading)}\n\n{table(['method', *columns], lines)}"


def _text(found: Comparison | None, name: str) -> str:
    if found is None or found.ours is None or found.theirs is None:
        return GAP
    metric = dataclasses.replace(metric_of(found.metric), digits=digits(found.metric, name))
    text = f"{metric.show(found.ours.mean)} vs {metric.show(found.theirs.mean)}"
    if found.z is not None:
        text += f" [{found.z:+.1f}]"
    return Markup(f"{text} {bold('outside')}" if found.verdict == "outside" else text)


def _rows(found: Sequence[Comparison]) -> Iterator[dict[str, Value]]:
    for c in found:
        yield {
            **c.section._asdict(),
            "metric": c.metric,
            "method": c.row,
            "task": c.task,
            "mean": None if c.ours is None else c.ours.mean,
            "sem": None if c.ours is None else c.ours.sem,
            "published_mean": None if c.theirs is None else c.theirs.mean,
            "published_sem": None if c.theirs is None else c.theirs.sem,
            "difference": c.difference,
            "z": c.z,
            "verdict": c.verdict,
        }
