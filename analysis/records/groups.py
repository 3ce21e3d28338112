"""Groups: runs that differ in their seed only and may be averaged; sections: groups that may share a table."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from analysis.records.labels import distinguish, flatten
from analysis.records.origin import Origin, origin
from bench.specs import RunSpec
from bench.store.records import RunRecord


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
        return origin(self.records, self.reference)

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
