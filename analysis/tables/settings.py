"""The settings of every method, from the specs: what was trained, and how it was predicted with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.records.fits import chain
from analysis.records.groups import Group, Section
from analysis.records.labels import show
from analysis.records.order import row_order
from analysis.statistics.study import Study
from analysis.tables.formats.markdown import GAP, heading, table
from analysis.tables.formats.table import Table
from bench.specs import FitSpec, Option

Found = Mapping[Section, Mapping[tuple[str, ...], Sequence[str]]]


def compute(study: Study) -> tuple[Found, list[str]]:
    """By section, the cells of every method and set of options, with the tasks that use it."""
    found: dict[Section, dict[tuple[str, ...], list[str]]] = {}
    for section in study.sections:
        rows = found.setdefault(section, {})
        for group in sorted(study.of(section), key=lambda g: (row_order(g, study.baseline), g.task)):
            rows.setdefault(_cells(group), []).append(group.task)
    return found, []


def settings(study: Study, found: Found) -> str:
    """Markdown: one row per method and set of options, with the tasks that use it."""
    parts = []
    for section, by_cells in found.items():
        rows = [[name, ", ".join(dict.fromkeys(tasks)), *rest] for (name, *rest), tasks in by_cells.items()]
        header = ["method", "tasks", "fit options", "prediction options", "steps", "batch size", "LoRA"]
        parts.append(f"{heading(3, section.title)}\n{table(header, rows)}")
    return "\n".join(parts)


def _cells(group: Group) -> tuple[str, ...]:
    fit = group.spec.fit
    lora = fit.model.lora
    trained = GAP if group.reference else str(fit.train.steps)
    adapters = f"r={lora.r}, alpha={show(lora.alpha)}, dropout={show(lora.dropout)}, {','.join(lora.targets)}"
    made_from = "; ".join(dict.fromkeys(_fit(inner) for inner in chain(fit)))
    return group.name, made_from, _options(group.spec.options), trained, str(fit.train.batch_size), adapters


def _fit(fit: FitSpec) -> str:
    return f"{fit.method}: {_options(fit.options)}"


def _options(options: Mapping[str, Option]) -> str:
    return ", ".join(f"{name}={show(value)}" for name, value in sorted(options.items())) or GAP


TABLE = Table("Settings", "", compute, settings)
