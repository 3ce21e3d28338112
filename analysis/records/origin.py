"""The origin of a row's numbers: code, versions, machine and date of its runs and of all fits behind them; flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from analysis.records.data_identity import DataIdentity
from analysis.records.evaluation import Evaluation
from analysis.records.facts import FitSummary, RunSummary
from analysis.records.fits import Fits, chain
from bench.specs import FitSpec

FLAGS = {
    "dirty": "code of a run or fit was in no commit",
    "partial": "a dataset lacked rows: not comparable with results on the whole of it",
    "mixed-data": "the same split of a task was read with different content, by this row or another",
    "mixed-commits": "a fit was resumed by other code than began it",
    "mixed-devices": "its runs and fits were computed on different machines",
    "cue-lost": "prompts were cut so short that they lost the cue before the answer",
    "truncated": "prompts lost their end to max_length",
    "evidence-slope": "the evidence still rises at the prior precision that was chosen by it",
    "unpinned-rows": "rows of a local mirror, file or plug-in, which no pinned fingerprint vouches for",
    "plugin": "code outside the suite took part",
    "no-commit": "code of a run or fit was outside a git checkout, so its state is not known",
    "fit-missing": "a fit behind it is not in the store, so its flags speak of its evaluation only",
    "unchecked": "a record lacks the fingerprint of its rows, so it is not known whether others read the same",
}
"""Possible flaws of a row, in the order in which flags are listed."""

DISQUALIFYING = ("dirty", "partial", "mixed-data", "mixed-commits", "mixed-devices", "cue-lost")
"""Flags that keep a row out of bold and out of the ranks; the others are marks only."""

GIVEN = "prior_precision"  # the option that fixes what the evidence chooses otherwise
STEEP = 1.0  # nats per unit of log prior precision; the evidence's maximum has slope 0


@dataclasses.dataclass(frozen=True)
class Origin:
    """Suite versions, commits and machines, each once and sorted; the day (UTC) of the newest run; flags."""

    versions: tuple[str, ...]
    commits: tuple[str, ...]
    machines: tuple[str, ...]
    day: str
    flags: tuple[str, ...]

    @property
    def ranked(self) -> bool:
        """Whether the row may be best."""
        return not set(self.flags) & set(DISQUALIFYING)


def origin(records: Sequence[Evaluation], reference: bool, fits: Fits, data: DataIdentity) -> Origin:
    """The origin of runs that share a row, from their facts and those of all fits behind them.

    A ``reference`` is not trained, so where its empty fit was made says nothing.
    """
    runs = [record.facts.provenance for record in records]
    stored, missing = _stored(records, fits)
    sources = [*runs, *(fit.provenance for fit in stored if fit.provenance is not None)]
    copies = [record.facts.fit for record in records]
    every = [*stored, *copies]
    read: list[FitSummary | RunSummary] = [*every, *(record.facts for record in records)]
    machines = {source.machine for source in runs}
    if not reference:
        known = {source.device for source in sources}
        machines = machines.union(*(fit.machines for fit in stored), *(fit.machines - known for fit in copies))
    flags = {
        "dirty": any(source.dirty is True for source in sources),
        "partial": any(record.facts.partial for record in records),
        "mixed-data": any(map(data.mixed, records)),
        "mixed-commits": any(len(fit.commits) > 1 for fit in every),
        "mixed-devices": len(machines) > 1,
        "cue-lost": any(facts.cue_lost for facts in read),
        "truncated": any(facts.truncated for facts in read),
        "evidence-slope": any(_sloped(fit, fits) for record in records for fit in chain(record.spec.fit)),
        "unpinned-rows": any("+rows:" in read_from for record in records for read_from in _revisions(record)),
        "plugin": any(source.plugins for source in sources),
        "no-commit": any(source.dirty is None for source in sources),
        "fit-missing": missing,
        "unchecked": any(map(data.unchecked, records)),
    }
    return Origin(
        versions=_once(source.suite for source in sources),
        commits=_once((source.commit or "unknown")[:12] for source in sources),
        machines=_once(machines),
        day=max(source.time for source in runs)[:10],
        flags=tuple(flag for flag in FLAGS if flags[flag]),
    )


def _revisions(record: Evaluation) -> tuple[str, str]:
    """The data revisions that a run was scored and trained on."""
    return record.spec.data.revision, record.spec.fit.data.revision


def _stored(records: Sequence[Evaluation], fits: Fits) -> tuple[list[FitSummary], bool]:
    """The facts of every stored fit behind runs, and whether one is missing."""
    behind = [fits.facts(fit) for record in records for fit in chain(record.spec.fit)]
    found = [facts for facts in behind if facts is not None]
    return found, len(found) < len(behind)


def _sloped(fit: FitSpec, fits: Fits) -> bool:
    """Whether the evidence chose a prior precision at which it still rises or falls; a given one may lie anywhere."""
    facts = fits.facts(fit)
    return facts is not None and facts.slope is not None and abs(facts.slope) > STEEP and not fit.options.get(GIVEN)


def _once(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(words)))
