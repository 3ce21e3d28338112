"""The part of ``facts.json`` that tables and figures need, compact enough to hold thousands in memory.

:mod:`bench.store.facts` declares and checks all facts before they come here. One that older records lack is None.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

PREDICTIONS = "predictions.safetensors"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Malformed(ValueError):
    """A value in a record that has the wrong type, range or form; the message names where, and the value."""


@dataclasses.dataclass(frozen=True, slots=True)
class Provenance:
    """Code, machine and time of a run or fit. ``commit`` and ``dirty`` are None outside a git checkout."""

    commit: str | None
    dirty: bool | None
    suite: str  # the version of the suite, "unknown" where it was not installed
    device: str
    device_type: str
    threads: int
    time: str  # ISO 8601
    plugins: bool  # code of plug-ins took part
    base: str  # a readable name of a local base; "" for others

    @property
    def machine(self) -> str:
        """The machine class that wall-clock figures depend on: the device, and on a CPU the number of threads."""
        if self.device_type != "cpu":
            return self.device
        return f"{self.device} ({self.threads} thread{'s' if self.threads != 1 else ''})"


@dataclasses.dataclass(frozen=True, slots=True)
class FitSummary:
    """Cost of one fit. Seconds of wall-clock time, memory in MiB; a pass is one example passed forward once."""

    steps: int
    train_seconds: float
    posterior_seconds: float
    host_mib: float | None
    device_mib: float | None
    passes: int | None
    warnings: tuple[str, ...]
    fingerprint: str | None  # of the rows that it was trained on
    truncated: int | None  # prompts that lost their end
    cue_lost: int | None  # prompts that lost the cue before the answer
    commits: frozenset[str]  # of the attempts whose steps it holds
    devices: frozenset[str]  # of the same
    slope: float | None  # of the evidence at the prior precision that was found; None if it was fixed, or there is none
    provenance: Provenance | None  # None in the copy that an evaluation keeps

    @property
    def machines(self) -> frozenset[str]:
        """The machines that computed it: the one that finished it, and others on which attempts before did steps."""
        if self.provenance is None:
            return self.devices
        return self.devices - {self.provenance.device} | {self.provenance.machine}


@dataclasses.dataclass(frozen=True, slots=True)
class RunSummary:
    """Cost of one evaluation, and the number of examples it scored."""

    fit_key: str
    fit: FitSummary
    draws: int
    scored: int
    partial: bool
    predict_seconds: float
    host_mib: float | None
    device_mib: float | None
    passes: int | None
    fingerprint: str | None  # of the rows that it was scored on
    truncated: int | None
    cue_lost: int | None
    title: str | None
    provenance: Provenance
    predictions_sha256: str


def run_facts(facts: Mapping[str, Any]) -> RunSummary:
    """The facts of an evaluation, from checked data.

    Raises:
        Malformed: the hash of its predictions is missing.
    """
    files = facts.get("files")
    sha256 = files.get(PREDICTIONS) if isinstance(files, dict) else None
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise Malformed(f"files has no SHA-256 of {PREDICTIONS}")
    return RunSummary(
        fit_key=facts["fit"]["key"],
        fit=_fit(facts["fit"], facts["fit"].get("diagnostics"), None),
        draws=facts["draws"],
        scored=facts["examples"]["scored"],
        partial=facts["partial_data"],
        predict_seconds=float(facts["seconds"]["predict"]),
        host_mib=facts["peak_memory_mib"]["host"],
        device_mib=facts["peak_memory_mib"].get("device"),
        passes=facts.get("forward_passes"),
        fingerprint=facts["examples"].get("fingerprint"),
        truncated=facts["examples"].get("truncated"),
        cue_lost=facts["examples"].get("cue_lost"),
        title=facts.get("title"),
        provenance=_provenance(facts["provenance"]),
        predictions_sha256=sha256,
    )


def fit_facts(facts: Mapping[str, Any]) -> FitSummary:
    """The facts of a fit, from checked data."""
    return _fit(facts, facts.get("diagnostics"), _provenance(facts["provenance"]))


def _fit(facts: Mapping[str, Any], diagnostics: Any, source: Provenance | None) -> FitSummary:
    examples = facts.get("examples") or {}
    attempts = _continued(facts.get("attempts") or [])
    return FitSummary(
        steps=facts["steps"],
        train_seconds=float(facts["seconds"]["train"]),
        posterior_seconds=float(facts["seconds"]["posterior"]),
        host_mib=facts["peak_memory_mib"]["host"],
        device_mib=facts["peak_memory_mib"].get("device"),
        passes=facts.get("forward_passes"),
        warnings=tuple(facts["warnings"]),
        fingerprint=examples.get("fingerprint"),
        truncated=examples.get("truncated"),
        cue_lost=examples.get("cue_lost"),
        commits=frozenset(attempt["commit"] for attempt in attempts if attempt.get("commit")),
        devices=frozenset(attempt["device"] for attempt in attempts if attempt.get("device")),
        slope=_slope(diagnostics),
        provenance=source,
    )


def _continued(attempts: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The attempts whose steps are in the fit: the last that began at step 0, and those that went on from it.

    An attempt whose first step is null ended before it.
    """
    worked = [attempt for attempt in attempts if attempt.get("from_step", 0) is not None]
    starts = [number for number, attempt in enumerate(worked) if attempt.get("from_step") == 0]
    return worked[starts[-1] :] if starts else worked


def _slope(diagnostics: Any) -> float | None:
    """A method reports what it likes: only a number is a slope."""
    slope = diagnostics.get("log_evidence_slope") if isinstance(diagnostics, dict) else None
    return float(slope) if isinstance(slope, int | float) and not isinstance(slope, bool) else None


def _provenance(facts: Mapping[str, Any]) -> Provenance:
    return Provenance(
        commit=facts["commit"],
        dirty=facts["dirty"],
        suite=facts["versions"].get("bayes-lora-bench") or "unknown",
        device=facts["device"],
        device_type=facts["device_type"],
        threads=facts["threads"],
        time=facts["time"],
        plugins=bool(facts.get("plugins")),
        base=facts.get("base", ""),
    )
