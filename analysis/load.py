"""Stored records, checked, and grouped into the runs that may be averaged: those that differ in their seed only."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.labels import distinguish, flatten
from bench.records import RunRecord, read_records
from bench.specs import FitSpec, RunSpec

if TYPE_CHECKING:
    from analysis.origin import Origin

NEEDED = (
    "draws", "partial_data", "examples.scored", "seconds.predict", "peak_memory_mib.host", "fit.key", "fit.steps",
    "fit.seconds.train", "fit.seconds.posterior", "fit.peak_memory_mib.host", "fit.warnings", "provenance.commit",
    "provenance.dirty", "provenance.device", "provenance.device_type", "provenance.threads", "provenance.time",
    "provenance.versions",
)  # fmt: skip


class Section(NamedTuple):
    """What may stand in one table: one protocol, one base model, one variant of the settings."""

    protocol: str
    model: str
    variant: str

    @property
    def title(self) -> str:
        """A heading."""
        variant = f", variant {self.variant}" if self.variant else ""
        return f"Protocol {self.protocol}, model {self.model}{variant}"

    @property
    def slug(self) -> str:
        """A part of a file name."""
        return slug(*self)


def slug(*words: str) -> str:
    """Words as part of a file name: letters, digits and hyphens."""
    safe = ("".join(c if c.isalnum() else "-" for c in word).strip("-") for word in words)
    return "-".join(filter(None, safe))


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that share all settings but the seed, in the order of their seeds. ``name`` tells it from its neighbours."""

    records: tuple[RunRecord, ...]
    settings: str  # canonical JSON of all but the seed
    name: str

    @property
    def spec(self) -> RunSpec:
        """The spec of the first run; only the seed is its own."""
        return self.records[0].spec

    @property
    def model(self) -> str:
        """Name of the base model, with its quantization if it has one."""
        model = self.spec.fit.model
        return model.id if model.quantization == "none" else f"{model.id} {model.quantization}"

    @property
    def section(self) -> Section:
        """The table it belongs in."""
        return Section(self.spec.protocol, self.model, self.spec.variant)

    @property
    def task(self) -> str:
        """The training task, and the evaluation task where that is another."""
        trained, scored = self.spec.fit.data.task, self.spec.data.task
        return trained if trained == scored else f"{trained} → {scored}"

    @property
    def hash(self) -> str:
        """First 8 hex digits of the SHA-256 of the settings."""
        return hashlib.sha256(self.settings.encode()).hexdigest()[:8]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Its seeds, ascending."""
        return tuple(record.spec.fit.seed for record in self.records)

    @property
    def partial(self) -> bool:
        """Whether any of its runs lacked rows of its dataset."""
        return any(record.facts["partial_data"] for record in self.records)

    @cached_property
    def reference(self) -> bool:
        """Whether nothing was trained for it (a known optimum, the base alone): shown, but no competitor."""
        return not self.spec.fit.bases and all(record.facts["fit"]["steps"] == 0 for record in self.records)

    @cached_property
    def origin(self) -> Origin:
        """Where its numbers come from."""
        from analysis.origin import origin  # it reads groups

        return origin(self)

    def having(self, metric: str) -> tuple[RunRecord, ...]:
        """Its runs that have a metric."""
        return tuple(record for record in self.records if metric in record.metrics)

    def values(self, metric: str) -> list[float]:
        """A metric in the order of the seeds."""
        return [record.metrics[metric] for record in self.having(metric)]


@dataclasses.dataclass(frozen=True)
class Runs:
    """All that is known of a runs folder: groups of results, sweep points and tuning runs, and what was left out."""

    folder: Path
    results: tuple[Group, ...]
    sweeps: tuple[Group, ...]
    tunes: tuple[Group, ...]
    excluded: tuple[str, ...]

    @property
    def sections(self) -> list[Section]:
        """The sections that have results, sorted."""
        return sorted({group.section for group in self.results})

    def of(self, section: Section) -> list[Group]:
        """The results of a section."""
        return [group for group in self.results if group.section == section]


def load(runs: Path) -> Runs:
    """The records under ``runs/evals``. Each damaged one is named on stderr and left out.

    Raises:
        ValueError: there is no result to show.
    """
    records, damaged = read_records(runs)
    complaints = {record.key: complaint(record) for record in records}
    excluded = (*damaged, *(sentence for sentence in complaints.values() if sentence))
    for sentence in excluded:
        print(f"left out: {sentence}", file=sys.stderr)
    good = [record for record in records if complaints[record.key] is None]
    results = group(record for record in good if record.spec.purpose == "result")
    if not results:
        raise ValueError(
            f"{runs} holds no {'undamaged ' if excluded else ''}result: "
            f"run `bench grid GRID.toml --runs {runs}` first, or name another folder with --runs."
        )
    sweeps = group(record for record in good if record.spec.purpose == "sweep")
    tunes = group(record for record in good if record.spec.purpose == "tune")
    return Runs(runs, results, sweeps, tunes, excluded)


def complaint(record: RunRecord) -> str | None:
    """Why a record cannot be used, naming it; None when it can."""
    file = record.folder / "facts.json"
    for name, value in record.metrics.items():
        if not math.isfinite(value):
            return f"{file} says {name} is {value}: delete that folder and run the grid again."
    for path in NEEDED:
        inner: Any = record.facts
        for part in path.split("."):
            if not isinstance(inner, dict) or part not in inner:
                return f"{file} lacks {path}: delete that folder and run the grid again."
            inner = inner[part]
    return None


def group(records: Iterable[RunRecord]) -> tuple[Group, ...]:
    """Records grouped by all of their settings but the seed, and named."""
    found: dict[str, list[RunRecord]] = {}
    for record in records:
        found.setdefault(record.settings, []).append(record)
    groups = [
        Group(tuple(sorted(members, key=lambda r: (r.spec.fit.seed, r.key))), settings, members[0].spec.method)
        for settings, members in sorted(found.items())
    ]
    names = distinguish([(g.name, (g.section, g.task), flatten(g.settings)) for g in groups])
    return tuple(dataclasses.replace(g, name=name) for g, name in zip(groups, names, strict=True))


def fits(spec: FitSpec) -> list[FitSpec]:
    """A fit and all that it was made from, its bases first, each once."""
    found: list[FitSpec] = []
    for fit in (*(inner for base in spec.bases for inner in fits(base)), spec):
        if fit not in found:
            found.append(fit)
    return found
