"""A synthetic store with known answers, written file by file as the runner writes it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from analysis.records import load as loading
from analysis.records.order import BASELINE
from analysis.records.predictions import read_predictions
from analysis.records.published import AVERAGE, METRICS, digits, methods, published, tasks
from analysis.statistics.metric import metric_of
from analysis.tables.results import Block, Cell
from bench.metrics import score
from bench.specs import DataSpec, FitSpec, ModelSpec, RunSpec, TrainSpec, canonical, key, to_json

PROVENANCE = {
    "commit": "c" * 40,
    "dirty": False,
    "device": "Abacus",
    "device_type": "cpu",
    "threads": 1,
    "time": "2026-01-01T00:00:00+00:00",
    "versions": {"bayes-lora-bench": "0.1.0"},
}


STATED: set[str] = set()  # keys of runs whose metrics a test states outright: their predictions have others


@pytest.fixture(autouse=True)
def stated_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs with stated metrics are not compared with their predictions; all others are."""
    STATED.clear()
    check = loading._checked

    def checked(record: Any) -> Any:
        if record.key in STATED:
            return record, read_predictions(record.folder, record.facts)
        return check(record)

    monkeypatch.setattr(loading, "_checked", checked)


def fingerprint(*words: str) -> str:
    """A hash as records keep one of their rows."""
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:16]


def hashes(folder: Path) -> dict[str, str]:
    """The hashes of a folder's files, as facts.json lists them."""
    files = [file for file in sorted(folder.iterdir()) if file.name != "facts.json"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@dataclasses.dataclass
class SyntheticStore:
    """Writes runs; ``metrics`` given outright, or scored from ``log_probs`` and ``labels``."""

    root: Path

    def spec(
        self,
        method: str = "adamw",
        task: str = "notes",
        seed: int = 1,
        *,
        fit_method: str | None = None,
        fit_options: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        eval_task: str | None = None,
        bases: tuple[FitSpec, ...] = (),
        protocol: str = "clean",
        variant: str = "tuned",
        purpose: str = "result",
        model: ModelSpec | None = None,
    ) -> RunSpec:
        """A run's spec."""
        fit = FitSpec(
            method=fit_method or method,
            version=1,
            options=fit_options or {},
            data=DataSpec(task=task, version=1, revision="r"),
            holdout=0.0,
            model=model or ModelSpec(),
            train=TrainSpec(steps=100),
            seed=seed,
            bases=bases,
        )
        data = DataSpec(task=eval_task or task, version=1, revision="r")
        return RunSpec(
            fit=fit,
            method=method,
            version=1,
            options=options or {},
            data=data,
            split="test",
            protocol=protocol,
            variant=variant,
            purpose=purpose,
        )

    def add(
        self,
        spec: RunSpec,
        metrics: Mapping[str, float] | None = None,
        *,
        log_probs: Any = None,
        labels: Any = None,
        truth: Any = None,
        trained: bool = True,
        partial: bool = False,
        trace: tuple[Mapping[str, float], ...] = (),
        train_seconds: float = 10.0,
        provenance: Mapping[str, Any] | None = None,
        warnings: tuple[str, ...] = (),
        posterior: bytes = b"a posterior",
        rows: str = "",
        title: str | None = None,
        train_examples: Mapping[str, Any] | None = None,
        examples: Mapping[str, Any] | None = None,
        diagnostics: Mapping[str, Any] | None = None,
        attempts: tuple[Mapping[str, Any], ...] = (),
        no_fingerprint: bool = False,
    ) -> Path:
        """Write a run and its fit; returns the run's folder. ``rows`` says which content its data has."""
        if metrics is not None:
            STATED.add(key(spec))
        if log_probs is None:
            log_probs, labels = np.log(np.full((1, 4, 2), 0.5, np.float32)), np.array([0, 1, 0, 1])
        scores = score(log_probs, labels, truth) if metrics is None else dict(metrics)
        source = {**PROVENANCE, **(provenance or {})}
        fit_facts = {
            "status": "done",
            "steps": spec.fit.train.steps if trained else 0,
            "seconds": {"train": train_seconds if trained else 0.0, "posterior": 0.0 if trained else 2.0},
            "seconds_per_step": train_seconds / spec.fit.train.steps if trained else None,
            "peak_memory_mib": {"host": 400.0, "device": None},
            "forward_passes": spec.fit.train.steps * spec.fit.train.batch_size if trained else 256,
            "examples": {
                "kept": 256,
                "partial": False,
                "fingerprint": fingerprint(spec.fit.data.task, "train", rows),
                **(train_examples or {}),
            },
            "attempts": list(attempts),
            "warnings": list(warnings),
        }
        fit_folder = self.root / "fits" / key(spec.fit)
        fit_folder.mkdir(parents=True, exist_ok=True)
        (fit_folder / "spec.json").write_text(json.dumps(to_json(spec.fit)))
        (fit_folder / "posterior.safetensors").write_bytes(posterior)
        (fit_folder / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in trace))
        files = hashes(fit_folder)
        (fit_folder / "facts.json").write_text(
            json.dumps({**fit_facts, "diagnostics": dict(diagnostics or {}), "provenance": source, "files": files})
        )

        folder = self.root / "evals" / key(spec)
        folder.mkdir(parents=True)
        ids = canonical([f"test/{n}" for n in range(len(labels))])
        arrays = {"log_probs": log_probs, "labels": labels, **({} if truth is None else {"truth": truth})}
        save_file(arrays, folder / "predictions.safetensors", {"ids": ids})
        (folder / "spec.json").write_text(json.dumps(to_json(spec)))
        facts = {
            "status": "done",
            "metrics": scores,
            "draws": len(log_probs),
            "examples": {
                "scored": len(labels),
                "truncated": 0,
                "fingerprint": fingerprint(spec.data.task, spec.split, rows),
                **(examples or {}),
            },
            **({} if title is None else {"title": title}),
            "seconds": {"predict": 1.5},
            "peak_memory_mib": {"host": 500.0, "device": None},
            "forward_passes": log_probs.shape[0] * len(labels),
            "fit": {"key": key(spec.fit), **fit_facts},
            "partial_data": partial,
            "provenance": source,
            "files": hashes(folder),
        }
        if no_fingerprint:
            del facts["examples"]["fingerprint"]
        (folder / "facts.json").write_text(json.dumps(facts))
        return folder


@pytest.fixture(scope="session")
def store_at() -> type[SyntheticStore]:
    """For fixtures that live longer than a test: an empty store in a folder of theirs."""
    return SyntheticStore


@pytest.fixture
def store(tmp_path: Path) -> SyntheticStore:
    """An empty store in a temporary folder."""
    return SyntheticStore(tmp_path / "runs")


@pytest.fixture
def published_blocks() -> list[Block]:
    """Table 1 as the paper prints it, its averages included, as blocks of our own tables."""
    found = []
    for metric in METRICS.values():
        cells = {
            (method, task): Cell(figure.mean, figure.sem)
            for (name, method, task), figure in published().items()
            if name == metric
        }
        shown = dataclasses.replace(metric_of(metric), digits=digits(metric))
        found.append(Block(shown, methods(), (*tasks(), AVERAGE), cells, BASELINE))
    return found
