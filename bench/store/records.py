"""Records: what is known of a finished evaluation. The only thing ``analysis`` reads. Standard library only.

One reader checks everything that is used later: the spec's fields and names, its key, and every fact. Metrics are not
recomputed here, which needs the predictions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from bench.specs import FitSpec, RunSpec, UnknownField, build, canonical, key, to_json
from bench.store.facts import FitFacts, RunFacts, check_facts
from bench.store.files import DamagedRecord, UnreadableRecord, damaged, read_json, reading
from bench.store.names import misnamed

__all__ = ["DamagedRecord", "RunRecord", "UnreadableRecord", "read_facts", "read_record", "read_records", "read_spec"]

S = TypeVar("S", FitSpec, RunSpec)


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run's spec and its facts (:class:`bench.store.facts.RunFacts`), as stored in ``evals/<key>/``."""

    key: str
    spec: RunSpec
    facts: Mapping[str, Any]
    folder: Path

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metric name to value; fractions, not percentages; NLL in nats."""
        metrics: Mapping[str, float] = self.facts["metrics"]
        return metrics

    @property
    def settings(self) -> str:
        """Canonical JSON of all that defines the run except its seed: the runs that may be averaged share it."""
        run = to_json(self.spec)
        return canonical({**run, "fit": _without_seed(run["fit"])})


def _without_seed(fit: dict[str, Any]) -> dict[str, Any]:
    """A fit's JSON data less its seed and its bases'; an option or setting that is called so too stays."""
    rest = {name: value for name, value in fit.items() if name != "seed"}
    return {**rest, "bases": [_without_seed(base) for base in fit["bases"]]}


def read_record(folder: Path) -> RunRecord:
    """The record of one ``evals/<key>/`` folder.

    Raises:
        DamagedRecord: a file is missing or wrong; the message says which and how.
        UnreadableRecord: it cannot be read at all, so nothing is known about it.
    """
    spec = read_spec(folder, RunSpec)
    return RunRecord(folder.name, spec, read_facts(folder, RunFacts), folder)


def read_spec(folder: Path, kind: type[S]) -> S:
    """The spec of a result, whose key is the folder's name and whose names this suite accepts.

    Raises:
        DamagedRecord, UnreadableRecord: as for :func:`read_record`.
    """
    file = folder / "spec.json"
    data = read_json(file)
    with reading(file):
        try:
            spec = build(kind, data)
        except UnknownField as error:
            raise DamagedRecord(f"{file} cannot be read: {error}.") from error
        found, wrong = key(spec), misnamed(spec)
    if wrong:
        raise damaged(file, wrong)
    if found != folder.name:
        raise DamagedRecord(
            f"{file} hashes to {found}: it was edited, or written by another version of the suite. "
            "Delete that folder and run the grid again."
        )
    return spec


def read_facts(folder: Path, kind: type[FitFacts] | type[RunFacts]) -> dict[str, Any]:
    """The facts of a result, checked.

    Raises:
        DamagedRecord, UnreadableRecord: as for :func:`read_record`.
    """
    file = folder / "facts.json"
    facts: dict[str, Any] = read_json(file)
    try:
        check_facts(kind, facts)
    except (ValueError, RecursionError) as error:
        raise damaged(file, error) from error
    return facts


def read_records(runs: Path) -> tuple[list[RunRecord], list[str]]:
    """All records under ``runs/evals`` in the order of their keys, and one sentence for each that cannot be used."""
    good: list[RunRecord] = []
    bad: list[str] = []
    for folder in sorted((runs / "evals").glob("[0-9a-f]*")):
        try:
            good.append(read_record(folder))
        except DamagedRecord as error:
            bad.append(str(error))
    return good, bad
