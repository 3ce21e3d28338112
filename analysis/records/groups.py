"""Groups: runs that differ in their seed only and may be averaged; sections: groups that may share a table."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from analysis.records.data_identity import DataIdentity
from analysis.records.evaluation import Evaluation
from analysis.records.fits import Fits
from analysis.records.labels import distinguish, flatten
from analysis.records.names import short_hash, slug
from analysis.records.origin import Origin, origin
from analysis.records.published import TITLES
from bench.specs import RunSpec

LOCAL = "local:"  # before the hash in the id of a local base


class Section(NamedTuple):
    """The scope of one table: one protocol, one base model, one variant of the settings."""

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


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that share all settings but the seed, in the order of their seeds.

    Attributes:
        records: the runs.
        settings: canonical JSON of all but the seed.
        data: fingerprints of its rows, where results on unlike rows of one name must be kept apart; else empty.
        base: what tables call its base model.
        name: identifies the row among those of its table.
        title: the same for people; unlike names have unlike titles.
        origin: where its numbers come from.
    """

    records: tuple[Evaluation, ...]
    settings: str
    data: tuple[str, ...]
    base: str
    name: str
    title: str
    origin: Origin

    @property
    def spec(self) -> RunSpec:
        """The spec of the first run; only the seed is its own."""
        return self.records[0].spec

    @property
    def model(self) -> str:
        """Name of the base model, with its quantization if it has one."""
        quantization = self.spec.fit.model.quantization
        return self.base if quantization == "none" else f"{self.base} {quantization}"

    @property
    def section(self) -> Section:
        """The table it belongs in."""
        return Section(self.spec.protocol, self.model, self.spec.variant)

    @property
    def away(self) -> bool:
        """Whether it is scored on another task than it was trained on."""
        return self.spec.fit.data.task != self.spec.data.task

    @property
    def task(self) -> str:
        """The training task, and the evaluation task where that is another."""
        trained, scored = self.spec.fit.data.task, self.spec.data.task
        return f"{trained} → {scored}" if self.away else trained

    @cached_property
    def hash(self) -> str:
        """8 hex digits that identify the group."""
        return short_hash(self.settings + "".join(self.data))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Its seeds, ascending."""
        return tuple(record.seed for record in self.records)

    @property
    def reference(self) -> bool:
        """Whether nothing was trained for it (a known optimum, the base alone): shown, but not a competitor."""
        return _reference(self.records)

    def having(self, metric: str) -> tuple[Evaluation, ...]:
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
    fits: Fits
    data: DataIdentity
    titles: Mapping[str, str]  # method to title

    @cached_property
    def sections(self) -> list[Section]:
        """The sections that have results, sorted."""
        return sorted(self._by_section)

    def of(self, section: Section) -> list[Group]:
        """The results of a section."""
        return self._by_section[section]

    @cached_property
    def _by_section(self) -> dict[Section, list[Group]]:
        found: dict[Section, list[Group]] = {}
        for group in self.results:
            found.setdefault(group.section, []).append(group)
        return found


def group(
    records: Iterable[Evaluation],
    fits: Fits,
    data: DataIdentity,
    titles: Mapping[str, str],
    bases: Mapping[str, str],
) -> tuple[Group, ...]:
    """Records grouped by all of their settings but the seed, and by the content of their rows; named."""
    found: dict[tuple[str, tuple[str, ...]], list[Evaluation]] = {}
    for record in records:
        found.setdefault((record.settings, data.of(record)), []).append(record)
    groups = []
    for (settings, rows), members in sorted(found.items()):
        runs = tuple(sorted(members, key=lambda run: (run.seed, run.key)))
        source = origin(runs, _reference(runs), fits, data)
        spec = members[0].spec
        groups.append(Group(runs, settings, rows, bases[spec.fit.model.id], spec.method, "", source))
    entries = [(g.name, (g.section, g.task), {**flatten(g.settings), **_data(g)}) for g in groups]
    return tuple(
        dataclasses.replace(g, name=name, title=titled(name, g.name, titles))
        for g, name in zip(groups, distinguish(entries), strict=True)
    )


def _reference(records: Sequence[Evaluation]) -> bool:
    return not records[0].spec.fit.bases and all(record.facts.fit.steps == 0 for record in records)


def _data(group: Group) -> dict[str, str]:
    """The setting that distinguishes groups on different rows."""
    return {"data": "+".join(word[:8] for word in group.data)} if group.data else {}


def base_names(records: Iterable[Evaluation]) -> dict[str, str]:
    """What tables call each base model: its id, or the name that the newest record has of a local one.

    Of local bases that share a name with another, the start of the hash is shown as well.
    """
    said: dict[str, tuple[str, str]] = {}
    for record in records:
        source = record.facts.provenance
        entry = (source.time if source.base else "", source.base)
        said[record.spec.fit.model.id] = max(entry, said.get(record.spec.fit.model.id, entry))
    names = {model: (name if model.startswith(LOCAL) and name else model) for model, (_, name) in said.items()}
    counts = Counter(names.values())
    return {
        model: name if counts[name] == 1 or name == model else f"{name} ({model.removeprefix(LOCAL)[:8]})"
        for model, name in names.items()
    }


def method_titles(records: Iterable[Evaluation]) -> dict[str, str]:
    """Method to title, as the newest of its records says or as the paper does; where two are the same, their names."""
    said: dict[str, tuple[str, str]] = {}
    for record in records:
        title = record.facts.title or TITLES.get(record.spec.method, record.spec.method)
        entry = (record.facts.provenance.time if record.facts.title else "", title)
        said[record.spec.method] = max(entry, said.get(record.spec.method, entry))
    titles = {method: title for method, (_, title) in said.items()}
    counts = Counter(titles.values())
    return {m: t if counts[t] == 1 and t not in titles.keys() - {m} else m for m, t in titles.items()}


def titled(label: str, method: str, titles: Mapping[str, str]) -> str:
    """A label that starts with a method's name, with the method's title instead."""
    return titles.get(method, TITLES.get(method, method)) + label.removeprefix(method)
