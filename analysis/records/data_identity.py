"""Whether results were computed on the same rows. Rows are compared by the fingerprints that records keep of them.

A spec names its data by task, version and revision; a fingerprint hashes every prompt and label that was read. Results
of one name and two fingerprints were computed on different data: they are flagged ``mixed-data``, and neither averaged
nor paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from analysis.records.evaluation import Evaluation
from analysis.records.fits import Fits, chain
from bench.specs import DataSpec

HOLDOUT = "holdout"  # the split that is part of train; its fingerprint is that of the whole of train
TRAIN = "train"


class Rows(NamedTuple):
    """A split of a task, as specs name it."""

    task: str
    version: int
    revision: str
    split: str

    @classmethod
    def of(cls, data: DataSpec, split: str) -> Rows:
        """The split that holds the rows; a hold-out is part of train."""
        return cls(data.task, data.version, data.revision, TRAIN if split == HOLDOUT else split)


Seen = Mapping[Rows, frozenset[str]]  # the fingerprints under which rows were read


class DataIdentity:
    """The rows behind a set of evaluations and their fits, and which of them were read with unlike content.

    Attributes:
        fingerprints: those under which each split was read.
    """

    def __init__(self, records: Iterable[Evaluation], fits: Fits) -> None:
        self._seen: dict[str, Seen] = {}  # by key of an evaluation
        self.fingerprints: dict[Rows, set[str]] = {}
        for record in records:
            seen: dict[Rows, set[str]] = {}
            for rows, fingerprint in _sightings(record, fits):
                seen.setdefault(rows, set()).update(fingerprint)
            self._seen[record.key] = {rows: frozenset(found) for rows, found in seen.items()}
            for rows, found in seen.items():
                self.fingerprints.setdefault(rows, set()).update(found)
        self._mixed = {rows for rows, found in self.fingerprints.items() if len(found) > 1}

    def mixed(self, record: Evaluation) -> bool:
        """Whether rows that an evaluation used were read with other content by itself or another."""
        return any(rows in self._mixed for rows in self._seen[record.key])

    def unchecked(self, record: Evaluation) -> bool:
        """Whether a fingerprint is missing, as in records of early versions."""
        return any(not found for found in self._seen[record.key].values())

    def of(self, record: Evaluation) -> tuple[str, ...]:
        """The fingerprints of those of its rows that were read with unlike content."""
        seen = self._seen[record.key]
        return tuple("+".join(sorted(seen[rows])) or "unknown" for rows in sorted(seen) if rows in self._mixed)

    def agree(self, one: Evaluation, other: Evaluation) -> bool:
        """Whether two evaluations read the rows that both used with the same content, as far as is known."""
        ours, theirs = self._seen[one.key], self._seen[other.key]
        return all(len(ours[rows] | theirs[rows]) <= 1 for rows in ours.keys() & theirs.keys())


def _sightings(record: Evaluation, fits: Fits) -> Iterator[tuple[Rows, set[str]]]:
    """The rows that an evaluation and its fits used, with their fingerprint where it is known."""
    spec, facts = record.spec, record.facts
    yield Rows.of(spec.data, spec.split), _known(facts.fingerprint)
    yield Rows.of(spec.fit.data, TRAIN), _known(facts.fit.fingerprint)
    for fit in chain(spec.fit):
        stored = fits.facts(fit)
        if stored is not None:
            yield Rows.of(fit.data, TRAIN), _known(stored.fingerprint)


def _known(fingerprint: str | None) -> set[str]:
    return set() if fingerprint is None else {fingerprint}
