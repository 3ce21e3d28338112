"""Detection out of distribution: AUROC and FPR95 by hand, which runs are paired, and gaps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from analysis.records.predictions import Predictions
from analysis.statistics.detection import SCORES, detection
from analysis.statistics.seed_values import detections
from analysis.statistics.study import study
from analysis.tables import results
from bench.specs import key


def test_auroc_and_fpr95_by_hand():
    assert detection(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == (1.0, 0.0)
    assert detection(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == (0.0, 1.0)
    # pairs won: 4 > all four; 2 > 1 and ties with 2: (4 + 1.5) / 8. To keep both, 2 is the threshold: 2, 3, 3 pass
    assert detection(np.array([2.0, 4.0]), np.array([1.0, 2.0, 3.0, 3.0])) == (5.5 / 8, 0.75)


def test_ninety_five_percent_may_lose_one_in_twenty():
    inside, outside = np.arange(20.0), np.array([-0.5, 0.5, 1.5])
    assert detection(inside, outside)[1] == pytest.approx(1 / 3)  # threshold 1: 19 of 20 are kept, and 1.5 passes
    assert detection(inside[:19], outside)[1] == pytest.approx(2 / 3)  # 18 of 19 are too few


def test_auroc_is_mann_whitney():
    generator = np.random.default_rng(0)
    inside, outside = generator.normal(0.5, 1, 200).round(1), generator.normal(0, 1, 300).round(1)
    expected = stats.mannwhitneyu(inside, outside).statistic / (200 * 300)
    assert detection(inside, outside)[0] == pytest.approx(expected)


def drawn(seed: int, sharp: float, size: int = 40, draws: int = 3, answers: int = 4) -> np.ndarray:
    logits = sharp * np.random.default_rng(seed).normal(size=(draws, size, answers))
    return (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))).astype(np.float32)


def test_mutual_information_is_what_the_draws_disagree_on():
    """Certain draws that contradict each other: H(p) = log 2, each H(p_s) = 0. Draws that agree: nothing."""
    sure = np.log(np.array([[[1.0, 1e-30]], [[1e-30, 1.0]]]))
    apart = Predictions(np.logaddexp.reduce(sure, axis=0) - np.log(2), np.array([0]), ("a",), sure)
    alike = Predictions(sure[0], np.array([0]), ("a",), sure[[0, 0]])
    assert SCORES["mutual_information"](apart) == pytest.approx(-np.log(2))
    assert SCORES["mutual_information"](alike) == pytest.approx(0, abs=1e-12)
    assert SCORES["mutual_information"](alike._replace(draws=sure[:1])) is None


def add(store, method, seed, sharp, eval_task=None, draws=3, **options):
    spec = store.spec(method, "obqa", seed, eval_task=eval_task, **options)
    log_probs = drawn(seed + 10 * bool(eval_task), sharp, draws=draws)
    store.add(spec, log_probs=log_probs, labels=np.arange(40) % 4)
    return spec


def test_runs_are_paired_by_fit_and_settings(store):
    for seed in (1, 2):
        add(store, "ivon", seed, 4.0, options={"tau": 1.0})
        add(store, "ivon", seed, 0.5, "arc_c", options={"tau": 1.0})
        add(store, "adamw", seed, 4.0, draws=1)
        add(store, "adamw", seed, 0.5, "arc_c", draws=1)
    add(store, "ivon", 1, 9.0, options={"tau": 0.0}, variant="mean", fit_method="ivon")  # another variant: no twin
    rows, notes = detections(study(store.root))
    assert notes == [] and [(row.group.name, row.group.task) for row in rows] == [
        ("adamw", "obqa → arc_c"), ("ivon", "obqa → arc_c")
    ]  # fmt: skip
    adamw, ivon = rows
    assert "auroc_mutual_information" not in adamw.values and set(ivon.values["auroc_mutual_information"]) == {1, 2}
    assert all(value > 0.9 for value in ivon.values["auroc_entropy"].values())
    inside, outside = (drawn(seed, sharp).astype(float) for seed, sharp in ((1, 4.0), (11, 0.5)))
    mixed = [np.log(np.exp(p).mean(axis=0)) for p in (inside, outside)]
    expected = detection(*(np.exp(p).max(axis=1) for p in mixed))
    found = ivon.values["auroc_max_prob"][1], ivon.values["fpr95_max_prob"][1]
    assert found == pytest.approx(expected)
    assert ivon.values["accuracy"][1] == rows[1].group.records[0].metrics["accuracy"]
    assert "arc_c" not in results.TABLE.body(study(store.root))  # they are in a table of their own


def test_a_run_without_its_twin_or_with_damage_is_named(store):
    lonely = add(store, "ivon", 1, 0.5, "arc_c")
    rows, notes = detections(study(store.root))
    assert "No detection by ivon on obqa → arc_c, seed 1" in notes[0] and "auroc_entropy" not in rows[0].values
    add(store, "ivon", 1, 4.0)
    (store.root / "evals" / key(lonely) / "predictions.safetensors").write_bytes(b"x")
    damaged = study(store.root)
    assert detections(damaged) == ([], []) and key(lonely) in damaged.runs.excluded[0]


def test_unlike_numbers_of_answers_are_said(store):
    spec = add(store, "ivon", 1, 4.0)
    other = dataclasses.replace(spec, data=dataclasses.replace(spec.data, task="boolq"))
    store.add(other, log_probs=drawn(3, 1.0, answers=2), labels=np.arange(40) % 2)
    _, notes = detections(study(store.root))
    assert "the tasks have 4 and 2 answers" in notes[0]
