"""Records: what is known of a finished evaluation. The only thing ``analysis`` reads. Standard library only."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.specs import RunSpec, UnknownField, build, canonical, key


class DamagedRecord(ValueError):
    """A folder of the store that cannot be read; the message names the file and what to do."""


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run's spec and its facts (metrics, counts, seconds, memory, provenance), as stored in ``evals/<key>/``."""

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
        run = json.loads(canonical(self.spec))
        return canonical({**run, "fit": _without_seed(run["fit"])})


def _without_seed(fit: dict[str, Any]) -> dict[str, Any]:
    """A fit's JSON data less its seed and its bases'; an option or setting that is called so too stays."""
    rest = {name: value for name, value in fit.items() if name != "seed"}
    return {**rest, "bases": [_without_seed(base) for base in fit["bases"]]}


def read_record(folder: Path) -> RunRecord:
    """The record of one ``evals/<key>/`` folder.

    Raises:
        DamagedRecord: a file is missing or unreadable, or the spec does not hash to the folder's name.
    """
    try:
        spec = build(RunSpec, json.loads((folder / "spec.json").read_text()))
        facts = json.loads((folder / "facts.json").read_text())
        found = key(spec)
        numbers = [value for value in facts["metrics"].values() if not isinstance(value, bool)]
        sound = len(numbers) == len(facts["metrics"]) and all(map(math.isfinite, numbers))
    except UnknownField as error:
        raise DamagedRecord(f"{folder} cannot be read: {error}.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedRecord(f"{folder} is damaged ({error}): delete that folder and run the grid again.") from error
    if found != folder.name:
        raise DamagedRecord(
            f"{folder}/spec.json hashes to {found}: it was edited, or written by another version of the suite. "
            "Delete that folder and run the grid again."
        )
    if not sound:
        raise DamagedRecord(f"{folder}/facts.json has a metric that is not a finite number: run this evaluation again.")
    return RunRecord(folder.name, spec, facts, folder)


def read_records(runs: Path) -> tuple[list[RunRecord], list[str]]:
    """All records under ``runs/evals`` in the order of their keys, and one sentence for each damaged one."""
    good: list[RunRecord] = []
    bad: list[str] = []
    for folder in sorted((runs / "evals").glob("[0-9a-f]*")):
        try:
            good.append(read_record(folder))
        except DamagedRecord as error:
            bad.append(str(error))
    return good, bad
