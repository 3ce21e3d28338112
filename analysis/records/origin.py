"""Where a row's numbers come from: code, versions, machine and date of its runs and of all fits behind them; flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from analysis.records.fits import fit_facts, fits, machine
from bench.store.records import RunRecord

# What keeps a row out of bold and out of the ranks. "fit-missing" and "no-commit" are marks only.
DISQUALIFYING = ("dirty", "partial", "mixed-devices")
FLAGS = {
    "dirty": "code of a run or fit was in no commit",
    "partial": "a dataset lacked rows: not comparable with results on the whole of it",
    "mixed-devices": "its runs and fits were computed on unlike machines",
    "no-commit": "code of a run or fit was outside a git checkout, so its state is not known",
    "fit-missing": "a fit behind it is not in the store, so its flags speak of its evaluation only",
}
SAID = ("commit", "dirty", "device", "device_type", "threads", "time", "versions")  # what is read of a provenance


@dataclasses.dataclass(frozen=True)
class Origin:
    """Suite versions, commits and machines, each once and sorted; the day (UTC) of the newest run; flags.

    ``FLAGS`` says what they mean; they are in its order.
    """

    versions: tuple[str, ...]
    commits: tuple[str, ...]
    machines: tuple[str, ...]
    day: str
    flags: tuple[str, ...]

    @property
    def ranked(self) -> bool:
        """Whether the row may be best."""
        return not set(self.flags) & set(DISQUALIFYING)


def origin(records: Sequence[RunRecord], reference: bool) -> Origin:
    """The origin of runs, from their facts and those of all fits behind them.

    A ``reference`` is not trained, so where its empty fit was made says nothing.
    """
    runs = [record.facts["provenance"] for record in records]
    behind, missing = _fitted(records)
    sources = [*runs, *behind]
    machines = _once(machine(source) for source in (runs if reference else sources))
    flags = {
        "dirty": any(source["dirty"] is True for source in sources),
        "partial": any(record.facts["partial_data"] for record in records),
        "mixed-devices": len(machines) > 1,
        "no-commit": any(source["dirty"] is None for source in sources),
        "fit-missing": missing,
    }
    return Origin(
        versions=_once(source["versions"].get("bayes-lora-bench") or "unknown" for source in sources),
        commits=_once((source["commit"] or "unknown")[:12] for source in sources),
        machines=machines,
        day=max(source["time"] for source in runs)[:10],
        flags=tuple(flag for flag in FLAGS if flags[flag]),
    )


def _fitted(records: Sequence[RunRecord]) -> tuple[list[Mapping[str, Any]], bool]:
    """The provenance of every fit behind the runs, and whether one is not there or does not say."""
    chain = [(record.folder.parents[1], fit) for record in records for fit in fits(record.spec.fit)]
    facts = [fit_facts(runs, fit) or {} for runs, fit in chain]
    found = [known["provenance"] for known in facts if set(known.get("provenance", ())) >= set(SAID)]
    return found, len(found) < len(chain)


def _once(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(words)))
