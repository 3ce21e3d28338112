"""What must be known before a table is read: how many seeds and examples, which split, which machine, which flaws."""

from __future__ import annotations

from collections.abc import Iterable

from analysis.fits import machine
from analysis.load import Runs


def preamble(runs: Runs) -> str:
    """Markdown: a list of facts, then of warnings."""
    facts, warnings = facts_and_warnings(runs)
    return "\n".join(f"- {line}" for line in [*facts, *(f"**Warning:** {line}" for line in warnings)]) + "\n"


def facts_and_warnings(runs: Runs) -> tuple[list[str], list[str]]:
    """Sentences of both kinds."""
    records = [record for group in runs.results for record in group.records]
    sources = [record.facts["provenance"] for record in records]
    splits = {(g.task, g.spec.split, r.facts["examples"]["scored"]) for g in runs.results for r in g.records}
    facts = [
        f"{len(records)} results in {len(runs.results)} sets of settings; {len(runs.sweeps)} more sets from sweeps, "
        "which are not ranked.",
        f"Seeds: {_list(str(seed) for seed in sorted({r.spec.fit.seed for r in records}))}. ± is the standard error of "
        "the mean over seeds; it does not cover the choice of examples.",
        f"Scored on: {_list(f'{task} ({count} examples of {split})' for task, split, count in sorted(splits))}.",
        f"Protocol: {_list({g.spec.protocol for g in runs.results})}. Model: {_list({g.model for g in runs.results})}.",
        f"Machine: {_list({machine(source) for source in sources})}. Commit: {_list({_commit(s) for s in sources})}.",
    ]
    return facts, _warnings(runs)


def _warnings(runs: Runs) -> list[str]:
    records = [record for group in runs.results for record in group.records]
    found = []
    partial = {group.task for group in runs.results if group.partial}
    if partial:
        found.append(f"partial data for {_list(partial)}: not comparable with results on the whole dataset.")
    dirty = sum(record.facts["provenance"]["dirty"] is True for record in records)
    if dirty:
        found.append(f"{dirty} of {len(records)} results come from a working tree with changes that are in no commit.")
    unknown = sum(record.facts["provenance"]["dirty"] is None for record in records)
    if unknown:
        found.append(
            f"{unknown} of {len(records)} results come from code outside a git checkout: its state is not known."
        )
    if len({machine(record.facts["provenance"]) for record in records}) > 1:
        found.append("several machines: seconds are not comparable between them.")
    most = {section: max(len(group.records) for group in runs.of(section)) for section in runs.sections}
    short = [g for g in runs.results if len(g.records) < most[g.section]]
    if short:
        found.append(f"seeds are missing for {_list(f'{g.name} on {g.task} ({g.section.title})' for g in short)}.")
    warned: dict[str, dict[str, list[str]]] = {}
    for record in records:
        fit = record.spec.fit
        name = fit.method + (f" (variant {record.spec.variant})" if record.spec.variant else "")
        warned.setdefault(name, {})[record.facts["fit"]["key"]] = record.facts["fit"]["warnings"]
    for name, fits in sorted(warned.items()):
        sentences = [sentence for warnings in fits.values() for sentence in warnings]
        if sentences:
            count = sum(bool(warnings) for warnings in fits.values())
            found.append(f"{count} of {len(fits)} fits of {name} warned, for example: {sentences[0]}")
    return [*found, *(f"left out: {sentence}" for sentence in runs.excluded)]


def _commit(provenance: dict[str, object]) -> str:
    return str(provenance["commit"] or "unknown")[:12]


def _list(items: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(sorted(items) if isinstance(items, set) else items))
