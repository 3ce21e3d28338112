"""The differences of a store to its baseline: pairs, corrections, gaps, and how they are shown."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from analysis.records.predictions import Predictions
from analysis.statistics.bootstrap import SMALLEST
from analysis.statistics.differences import compare
from analysis.statistics.study import study
from analysis.tables.differences import TABLE
from bench.metrics import METRICS


def predictions(seed: int, sharpness: float = 1.0, size: int = 400, answers: int = 3) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = np.random.default_rng(0).integers(answers, size=size)
    logits = generator.normal(size=(size, answers)) + sharpness * np.eye(answers)[labels]
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return Predictions(log_probs, labels, tuple(map(str, range(size))))


def test_one_seed_speaks_of_examples_only(store):
    for method, sharpness in (("adamw", 0.0), ("ivon", 3.0)):
        given = predictions(len(method), sharpness)
        store.add(store.spec(method), log_probs=given.log_probs[None].astype(np.float32), labels=given.labels)
    found, _ = compare(study(store.root))
    assert {d.covers for d in found} == {"examples only"} and "1/1 examples only p=" in TABLE.body(study(store.root))
    assert TABLE.csv_text(study(store.root)).count(",1,1,examples only,") == len(found)


def test_one_example_has_no_spread(store):
    for method in ("adamw", "ivon"):
        store.add(store.spec(method), log_probs=np.log(np.full((1, 1, 2), 0.5, np.float32)), labels=np.array([0]))
    found, notes = compare(study(store.root))
    assert found == [] and "one example has no spread" in notes[0]


def fill(store, methods):
    for method, sharpness in methods.items():
        for seed in (1, 2, 3):
            given = predictions(seed + 10 * len(method), sharpness)
            store.add(
                store.spec(method, seed=seed), log_probs=given.log_probs[None].astype(np.float32), labels=given.labels
            )


def test_compare_and_render(store):
    fill(store, {"adamw": 0.0, "ivon": 3.0})
    found, notes = compare(study(store.root))
    assert notes == []
    assert {d.metric: d.verdict for d in found} == dict.fromkeys(METRICS, "better")
    expected = np.mean(
        [r.metrics["nll"] for r in found[0].group.records]
    ) - np.mean([r.metrics["nll"] for r in found[0].baseline.records])  # fmt: skip
    by_metric = {d.metric: d for d in found}
    assert by_metric["nll"].estimate.mean == pytest.approx(expected)
    text = re.sub(" +", " ", TABLE.body(study(store.root)))
    assert "| notes | ivon | **+" in text and "better 3/3" in text and "4 of 4 comparisons" in text
    assert TABLE.csv_text(study(store.root)).count("\n") == 5
    assert compare(study(store.root))[0] == found  # the resampling is fixed


def test_another_baseline_and_none(store):
    fill(store, {"adamw": 0.0, "ivon": 3.0})
    found, _ = compare(study(store.root, "ivon"))
    assert {d.verdict for d in found} == {"worse"}
    without = dataclasses.replace(study(store.root), baseline="missing")
    found, notes = compare(without)
    assert found == [] and "no result of the baseline 'missing'" in notes[0]
    assert TABLE.body(without) == ""


def test_damaged_predictions_are_named(store, caplog):
    fill(store, {"adamw": 0.0, "ivon": 3.0})
    record = next(g for g in study(store.root).runs.results if g.name == "ivon").records[0]
    file = record.folder / "predictions.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    damaged = study(store.root)
    assert {d.estimate.seeds for d in compare(damaged)[0]} == {2}
    assert record.key in damaged.runs.excluded[0] and record.key in caplog.text


def test_other_examples_are_not_paired(store):
    given = predictions(1)
    store.add(store.spec("adamw"), log_probs=given.log_probs[None].astype(np.float32), labels=given.labels)
    store.add(store.spec("ivon"), log_probs=given.log_probs[None, :-1].astype(np.float32), labels=given.labels[:-1])
    found, notes = compare(study(store.root))
    assert found == [] and "do not share seeds on the same examples" in notes[0]


def test_p_is_corrected(store):
    """A clear difference has a small p; Holm multiplies it by the number of comparisons."""
    fill(store, {"adamw": 0.0, "ivon": 3.0, "same": 0.0, "swag": 3.0})
    found, _ = compare(study(store.root))
    ivon, same, swag = (
        next(d for d in found if d.group.name == m and d.metric == "nll") for m in ("ivon", "same", "swag")
    )
    first, second = sorted((ivon, swag), key=lambda d: d.estimate.p)
    assert SMALLEST <= first.estimate.p < 0.01
    assert first.p_holm == pytest.approx(3 * first.estimate.p) and same.p_holm == same.estimate.p > 0.05
    assert second.p_holm == pytest.approx(max(first.p_holm, 2 * second.estimate.p))
    assert (ivon.verdict, same.verdict) == ("better", "no difference shown")
    assert f"p={ivon.p_holm:.2g}" in TABLE.body(study(store.root))
