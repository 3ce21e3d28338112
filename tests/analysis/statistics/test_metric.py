"""One table of metrics: another entry appears everywhere, and damages nothing that was stored before."""

from __future__ import annotations

import numpy as np
import pytest

from analysis import report
from analysis.records.load import load
from analysis.report import write_report
from analysis.statistics.differences import compare
from analysis.statistics.metric import metric_of, metric_order
from analysis.statistics.study import study
from bench.metrics import METRICS, Metric

LABELS = np.array([0, 1] * 20)


def surprise(log_probs, labels):
    """(N,) 1 where the label has a probability below one half."""
    return (log_probs[np.arange(len(labels)), labels] < np.log(0.5)).astype(np.float64)


def predicted(seed, sharpness):
    logits = np.random.default_rng(seed).normal(size=(1, 40, 2)) + sharpness * np.eye(2)[LABELS]
    return (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))).astype(np.float32)


@pytest.fixture
def dummy(store, monkeypatch):
    """Records of before, then a metric that they do not have."""
    for method, sharpness in (("adamw", 0.0), ("ivon", 4.0)):
        for seed in (1, 2, 3):
            store.add(store.spec(method, seed=seed), log_probs=predicted(seed, sharpness), labels=LABELS)
    monkeypatch.setitem(METRICS, "surprised", Metric("surprised", "Surprised (%)", -1, 100, 1, surprise))
    return store


def test_it_is_recomputed_for_older_records_and_damages_none(dummy):
    loaded = load(dummy.root)
    assert loaded.excluded == ()
    for group in loaded.results:
        accuracy, surprised = group.values("accuracy"), group.values("surprised")
        assert surprised == pytest.approx([1 - value for value in accuracy])


def test_it_has_differences(dummy):
    found, _ = compare(study(dummy.root))
    (ours,) = (d for d in found if d.metric == "surprised")
    assert ours.estimate.mean < 0 and ours.verdict == "better"


def test_it_is_in_every_table(dummy, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "FIGURES", {})
    write_report(dummy.root, tmp_path / "report")
    for name in ("results.csv", "table1.csv", "differences.csv"):
        assert ",surprised," in (tmp_path / "report" / "tables" / name).read_text()
    assert "Surprised (%) ↓" in (tmp_path / "report" / "tables.md").read_text()
    assert r"Surprised (\%)" in (tmp_path / "report" / "tables" / "table1.tex").read_text()


def test_metrics_stand_in_the_order_of_the_protocol_then_alphabetically():
    names = ["zeta", "aurc", "nll", "alpha", "accuracy", "excess_nll"]
    assert sorted(names, key=metric_order) == ["accuracy", "nll", "excess_nll", "aurc", "alpha", "zeta"]
    assert metric_of("zeta").heading == "zeta" and metric_of("zeta").better == 0
