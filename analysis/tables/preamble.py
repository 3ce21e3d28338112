"""Context printed above tables: number of seeds and examples, split, machine and flaws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analysis.records.groups import Group, Runs, Section
from analysis.records.origin import FLAGS
from analysis.tables.formats.markdown import escape

SHOWN = 12  # rows that a warning names


def preamble(runs: Runs) -> str:
    """Markdown: a list of facts, then of warnings."""
    facts, warnings = facts_and_warnings(runs)
    lines = [*map(escape, facts), *(f"**Warning:** {escape(line)}" for line in warnings)]
    return "\n".join(f"- {line}" for line in lines) + "\n"


def facts_and_warnings(runs: Runs) -> tuple[list[str], list[str]]:
    """Sentences of both kinds."""
    records = [record for group in runs.results for record in group.records]
    sources = [group.origin for group in runs.results]
    splits = {(g.task, g.spec.split, r.facts.scored) for g in runs.results for r in g.records}
    facts = [
        f"{len(records)} results in {len(runs.results)} sets of settings; {len(runs.sweeps)} more sets from sweeps, "
        "which are not ranked.",
        f"Seeds: {_list(str(seed) for seed in sorted({r.seed for r in records}))}. ± is the standard error of "
        "the mean over seeds; it does not cover the choice of examples.",
        f"Scored on: {_list(f'{task} ({count} examples of {split})' for task, split, count in sorted(splits))}.",
        f"Protocol: {_list({g.spec.protocol for g in runs.results})}. Model: {_list({g.model for g in runs.results})}.",
        f"Machine: {_list({name for source in sources for name in source.machines})}. "
        f"Commit: {_list({commit for source in sources for commit in source.commits})}.",
    ]
    return facts, _warnings(runs)


def _warnings(runs: Runs) -> list[str]:
    records = [record for group in runs.results for record in group.records]
    found = []
    for flag, meaning in FLAGS.items():
        rows = [g for g in runs.results if flag in g.origin.flags]
        if rows:
            found.append(f"{flag} ({meaning}): {_rows(rows, len(runs.results))}.")
    if len({name for group in runs.results for name in group.origin.machines}) > 1:
        found.append("several machines: seconds are not comparable between them.")
    most = {section: max(len(group.records) for group in runs.of(section)) for section in runs.sections}
    every: dict[tuple[Section, str], set[int]] = {}
    for g in runs.results:
        every.setdefault((g.section, g.task), set()).update(g.seeds)
    short = [g for g in runs.results if len(g.records) < most[g.section] or set(g.seeds) < every[g.section, g.task]]
    if short:
        found.append(f"seeds are missing for {_rows(short, len(runs.results))}.")
    warned: dict[str, dict[str, Sequence[str]]] = {}
    for record in records:
        fit = record.spec.fit
        name = fit.method + (f" (variant {record.spec.variant})" if record.spec.variant else "")
        warned.setdefault(name, {})[record.facts.fit_key] = record.facts.fit.warnings
    for name, fits in sorted(warned.items()):
        sentences = [sentence for warnings in fits.values() for sentence in warnings]
        if sentences:
            count = sum(bool(warnings) for warnings in fits.values())
            found.append(f"{count} of {len(fits)} fits of {name} warned, for example: {sentences[0]}")
    return [*found, *(f"left out: {sentence}" for sentence in runs.excluded)]


def _rows(groups: Sequence[Group], of: int) -> str:
    """Which rows: by name where they are few."""
    names = [f"{g.name} on {g.task} ({g.section.title})" for g in groups]
    if len(names) == of:
        return f"all {of} rows" if of > 1 else names[0]
    return _list(names[:SHOWN]) + (f" and {len(names) - SHOWN} more of {of} rows" if len(names) > SHOWN else "")


def _list(items: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(sorted(items) if isinstance(items, set) else items))
