"""The settings of every method, from the specs: what was trained, and how it was predicted with."""

from __future__ import annotations

from collections.abc import Mapping

from analysis.records.fits import fits
from analysis.records.groups import Group, Runs
from analysis.records.labels import show
from analysis.records.order import BASELINE, row_order
from analysis.tables.markdown import GAP, table
from bench.specs import FitSpec, Option


def settings(runs: Runs, baseline: str = BASELINE) -> str:
    """Markdown: one row per method and set of options, with the tasks that use it."""
    parts = []
    for section in runs.sections:
        found: dict[tuple[str, ...], list[str]] = {}
        for group in sorted(runs.of(section), key=lambda g: (row_order(g, baseline), g.task)):
            found.setdefault(_cells(group), []).append(group.task)
        rows = [[name, ", ".join(dict.fromkeys(tasks)), *rest] for (name, *rest), tasks in found.items()]
        header = ["method", "tasks", "fit options", "prediction options", "steps", "batch size", "LoRA"]
        parts.append(f"### {section.title}\n\n{table(header, rows)}")
    return "\n".join(parts)


def _cells(group: Group) -> tuple[str, ...]:
    fit = group.spec.fit
    lora = fit.model.lora
    trained = GAP if group.reference else str(fit.train.steps)
    adapters = f"r={lora.r}, alpha={show(lora.alpha)}, dropout={show(lora.dropout)}, {','.join(lora.targets)}"
    chain = "; ".join(dict.fromkeys(_fit(inner) for inner in fits(fit)))
    return group.name, chain, _options(group.spec.options), trained, str(fit.train.batch_size), adapters


def _fit(fit: FitSpec) -> str:
    return f"{fit.method}: {_options(fit.options)}"


def _options(options: Mapping[str, Option]) -> str:
    return ", ".join(f"{name}={show(value)}" for name, value in sorted(options.items())) or GAP
