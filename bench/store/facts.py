"""Facts: what was measured of a fit or an evaluation, as ``facts.json`` holds it. Standard library only.

A fact has one name, one unit and one type, which are declared here. A writer builds :class:`FitFacts` or
:class:`RunFacts`; the store writes :func:`to_plain` of it with the hashes of the other files (``files``) and of the
facts themselves (``digest``). A reader passes the JSON data through :func:`check_facts`. A field with a default may be
missing: it was added later.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from bench.specs import canonical
from bench.store.schema import (
    Amount,
    Commit,
    Count,
    Finite,
    Hash,
    Line,
    Needed,
    Positive,
    Sentence,
    Sha256,
    Time,
    Version,
    Word,
    check,
    load,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """Rows of one split: official number, rows found, examples kept, dropped; ``fingerprint`` hashes the examples."""

    official: Count
    rows: Count
    kept: Count
    dropped: Count
    partial: bool
    fingerprint: Hash


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedOn(SplitFacts):
    """The training split of a fit.

    Attributes:
        held_out: examples that were set aside.
        truncated: examples whose prompt was longer than ``max_length``; None where it was not counted.
        cue_lost: those of them that lost the words that ask for the answer.
    """

    held_out: Count
    truncated: Count | None = None
    cue_lost: Count | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredOn(SplitFacts):
    """The split of an evaluation: ``scored`` examples; ``truncated`` and ``cue_lost`` as in :class:`TrainedOn`."""

    scored: Needed[Count]
    truncated: Count
    cue_lost: Count | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitSeconds:
    """Wall-clock seconds of the training loop, and of what the method did after it."""

    train: Needed[Amount]
    posterior: Needed[Amount]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSeconds:
    """Wall-clock seconds of the prediction."""

    predict: Needed[Amount]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Peak memory in MiB: of the process, and of the accelerator (None on a CPU)."""

    host: Needed[Amount]
    device: Amount | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plugin:
    """A module from outside the suite whose code took part: the hash of its file and, if it has one, its commit."""

    module: Line
    sha256: Sha256 | None
    version: Version | None = None
    commit: Commit | None = None
    dirty: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """Code, versions, machine and time. ``commit`` and ``dirty`` are None outside a git checkout.

    ``base`` is a readable name of a local base; "" for others, and in earlier records.
    """

    commit: Needed[Commit | None]
    dirty: Needed[bool | None]
    versions: Needed[Mapping[Line, Version | None]]
    python: Version
    device: Needed[Line]
    device_type: Needed[Word]
    threads: Needed[Positive]
    host: Line
    time: Needed[Time]
    data_from: Line
    plugins: tuple[Plugin, ...] = ()
    base: Line = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attempt:
    """One process that worked on a fit or an evaluation: where, in which job, with which code, from which step."""

    host: Line
    node: Line
    job: Line
    restart: Count
    gpus: Line
    device: Line
    from_step: Count | None = None
    time: Time | None = None
    commit: Commit | None = None
    dirty: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitCost:
    """Cost and training data of a fit. An evaluation keeps a copy, so that tables do not need the posterior.

    Attributes:
        steps: optimizer steps; 0 if nothing was trained.
        seconds_per_step: training seconds per step; None if nothing was trained.
        forward_passes: examples passed through the model; None where it was not counted.
        attempts: every process that worked on it, oldest first.
        warnings: sentences that users of the numbers should read.
    """

    steps: Needed[Count]
    seconds: Needed[FitSeconds]
    seconds_per_step: Amount | None
    peak_memory_mib: Needed[Memory]
    forward_passes: Count | None
    examples: TrainedOn
    attempts: tuple[Attempt, ...]
    warnings: Needed[tuple[Sentence, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitFacts(FitCost):
    """``facts.json`` of a fit. ``diagnostics`` are whatever the method reported (``job.facts``)."""

    diagnostics: Mapping[str, Any]
    provenance: Needed[Provenance]
    status: Word = "done"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UsedFit(FitCost):
    """The fit behind an evaluation."""

    key: Needed[Hash]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFacts:
    """``facts.json`` of an evaluation.

    Attributes:
        metrics: name to value; fractions, not percentages; NLL in nats.
        draws: posterior draws in the prediction.
        forward_passes: examples passed through the model to predict; None where it was not counted.
        partial_data: whether rows were missing from the data of the fit or of the evaluation.
        title: the method's name for people; None in older records.
        warnings: sentences on the predictions that users of the numbers should read.
    """

    metrics: Needed[Mapping[Word, Finite]]
    draws: Needed[Positive]
    examples: Needed[ScoredOn]
    seconds: Needed[RunSeconds]
    peak_memory_mib: Needed[Memory]
    forward_passes: Count | None
    fit: Needed[UsedFit]
    attempt: Attempt
    partial_data: Needed[bool]
    provenance: Needed[Provenance]
    status: Word = "done"
    title: Line | None = None
    warnings: tuple[Sentence, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sealed:
    """Digests that the store adds to facts: SHA-256 of each other file of the result, and of the facts themselves."""

    files: Mapping[Line, Sha256]
    digest: Sha256


def used_fit(key: str, facts: Mapping[str, Any]) -> UsedFit:
    """The part of a fit's ``facts.json`` that its evaluations keep. Fits of earlier versions may lack some of it."""
    return load(UsedFit, {**facts, "key": key})


def to_plain(facts: Any) -> Any:
    """JSON data of facts: dataclasses become objects, tuples arrays."""
    if dataclasses.is_dataclass(facts) and not isinstance(facts, type):
        return {field.name: to_plain(getattr(facts, field.name)) for field in dataclasses.fields(facts)}
    if isinstance(facts, Mapping):
        return {str(name): to_plain(value) for name, value in facts.items()}
    if isinstance(facts, tuple | list):
        return [to_plain(value) for value in facts]
    return facts


def digest_of(facts: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of facts, without their own ``digest``."""
    rest = {name: value for name, value in facts.items() if name != "digest"}
    return hashlib.sha256(canonical(rest).encode()).hexdigest()


def check_facts(kind: type[FitFacts] | type[RunFacts], facts: Any) -> None:
    """Check the content of a ``facts.json``: its digest, and every value against the fields of ``kind``.

    Raises:
        ValueError: it was changed after it was written, or a fact is missing or wrong; the fact is named by its path.
    """
    if isinstance(facts, dict) and "digest" in facts and facts["digest"] != digest_of(facts):
        raise ValueError("its digest is that of other facts: it was edited, or its content changed on disk")
    check(kind, facts)
    check(Sealed, facts)
