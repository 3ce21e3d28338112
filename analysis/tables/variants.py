"""The differences that each variant of the settings shows, side by side, and what one takes away from another."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from analysis.records.groups import Section
from analysis.statistics.metric import metric_of, metric_order
from analysis.statistics.study import Study
from analysis.statistics.variants import Contrast, Finding, Outcome, Place, contrasts, gather, outcomes
from analysis.tables.differences import signed
from analysis.tables.formats.markdown import GAP, escape, heading, table
from analysis.tables.formats.marks import MARKS
from analysis.tables.formats.table import Csv, Table
from analysis.tables.formats.text import Value

NONE = "none shown"
COLUMNS = (
    "protocol", "model", "variant", "baseline", "method", "metric", "task", "difference", "n_seeds", "p_holm",
    "verdict",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Part:
    """Variants side by side: those of one protocol, model and baseline.

    A line is a method and a metric that any variant shows a difference of; its further cells are the tasks, by variant.
    """

    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    sentences: tuple[str, ...]


def parts(found: Sequence[Outcome]) -> list[Part]:
    """All outcomes, those that may stand side by side together."""
    blocks: dict[tuple[str, str, str], list[Outcome]] = {}
    for one in found:
        blocks.setdefault((one.section.protocol, one.section.model, one.baseline), []).append(one)
    return [
        Part(
            f"Protocol {protocol}, model {model}: differences to {baseline}",
            ("method", "metric", *map(label, block)),
            tuple(_lines(block)),
            tuple(sentences(block)),
        )
        for (protocol, model, baseline), block in blocks.items()
    ]


def _lines(block: Sequence[Outcome]) -> Iterator[tuple[str, ...]]:
    shown = {one.place[:2] for outcome in block for one in outcome.shown}
    for method, metric in dict.fromkeys(place[:2] for outcome in block for place in outcome.found):
        if (method, metric) in shown:
            yield method, metric_of(metric).heading, *(_cell(outcome, method, metric) for outcome in block)


def markdown(part: Part) -> str:
    """A part without its title: the table, if any variant shows a difference, and the sentences."""
    listed = "".join(f"- {escape(line)}\n" for line in part.sentences)
    return f"{table(part.columns, part.lines)}\n{listed}" if part.lines else listed


def variants(study: Study, found: Sequence[Outcome]) -> str:
    """Markdown: every part; blank where nothing was compared."""
    return "\n".join(f"{heading(3, part.title)}\n{markdown(part)}" for part in parts(found))


def label(outcome: Outcome) -> str:
    """A variant's name and its number of seeds."""
    counts = " or ".join(map(str, outcome.seeds))
    return f"{_name(outcome)} ({counts} {'seed' if counts == '1' else 'seeds'})"


def _name(outcome: Outcome) -> str:
    return outcome.section.variant or "no variant"


def _cell(outcome: Outcome, method: str, metric: str) -> str:
    """The tasks on which a method differs, with signs; a gap where the variant does not have the method."""
    there = [one for place, one in outcome.found.items() if place[:2] == (method, metric)]
    texts = (
        f"{MARKS[one.verdict]} {one.place.task} {signed(metric_of(metric).show(one.difference))}"
        for one in there
        if one.shown
    )
    return (", ".join(texts) or NONE) if there else GAP


def counts(block: Sequence[Outcome]) -> list[str]:
    """How many differences each variant shows, and how many of those of the first the others show."""
    return [*map(_count, block), *map(_summary, contrasts(block))]


def sentences(block: Sequence[Outcome]) -> list[str]:
    """How many differences each variant shows, and what becomes of those of the first in the others."""
    return [*map(_count, block), *(line for pair in contrasts(block) for line in (_summary(pair), *_lists(pair)))]


def _count(outcome: Outcome) -> str:
    better, worse = (sum(one.verdict == verdict for one in outcome.shown) for verdict in MARKS)
    return (
        f"{label(outcome)}: {len(outcome.shown)} of {len(outcome.found)} comparisons show a difference to "
        f"{outcome.baseline}, {better} better and {worse} worse."
    )


def _summary(pair: Contrast) -> str:
    first, second = _name(pair.first), _name(pair.second)
    kept, turned, lost, gained = (len(some) for some in (pair.kept, pair.reversed, pair.lost, pair.gained))
    return (
        f"Of the {kept + turned + lost} differences that {first} shows among the {pair.common} comparisons that both "
        f"have, {second} shows {kept}, reverses {turned} and shows nothing for {lost}; it shows {gained} that {first} "
        "does not."
    )


def _lists(pair: Contrast) -> list[str]:
    first, second = _name(pair.first), _name(pair.second)
    lists = {f"In {first} and {second}": pair.kept, f"Reversed in {second}": pair.reversed}
    lists |= {f"Not in {second}": pair.lost, f"Only in {second}": pair.gained}
    return [f"{what}: {_listed(some)}." for what, some in lists.items() if some]


def _listed(some: Sequence[Finding]) -> str:
    """Findings by metric and verdict, then by method with its tasks."""
    rows: dict[tuple[str, str], dict[str, list[str]]] = {}
    for one in sorted(some, key=lambda one: metric_order(one.place.metric)):
        methods = rows.setdefault((one.place.metric, one.verdict), {})
        methods.setdefault(one.place.method, []).append(one.place.task)
    return "; ".join(
        f"{metric_of(metric).title} {verdict} for {', '.join(f'{m} ({_and(tasks)})' for m, tasks in methods.items())}"
        for (metric, verdict), methods in rows.items()
    )


def _and(tasks: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(tasks[:-1]), tasks[-1]]))


def _rows(study: Study, found: Sequence[Outcome]) -> Iterator[dict[str, Value]]:
    """In fractions and nats."""
    for outcome in found:
        for place, one in outcome.found.items():
            yield {
                **outcome.section._asdict(),
                "baseline": outcome.baseline,
                **place._asdict(),
                "difference": one.difference,
                "n_seeds": one.seeds,
                "p_holm": one.p,
                "verdict": one.verdict,
            }


def read_outcomes(rows: Sequence[Mapping[str, str]]) -> list[Outcome]:
    """The outcomes that the rows of ``variants.csv`` tell of."""
    return gather(
        Finding(
            Section(row["protocol"], row["model"], row["variant"]),
            row["baseline"],
            Place(row["method"], row["metric"], row["task"]),
            float(row["difference"]),
            int(row["n_seeds"]),
            float(row["p_holm"]),
            row["verdict"],
        )
        for row in rows
    )


TEXT = (
    "Which differences to {baseline} each variant shows (p at most 0.05, Holm-corrected over the methods and tasks of "
    f"a metric within the variant), with their size: {MARKS['better']} better, {MARKS['worse']} worse. A comparison is "
    "a trained method, a task and a metric. A difference that is not shown may still be there: its sign is not known.\n"
)
TABLE = Table("Differences by variant", TEXT, outcomes, variants, Csv("variants.csv", COLUMNS, _rows), always=False)
