"""The excess NLL over the optimum, against what mathematics says of it."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.records.predictions import Predictions
from analysis.statistics.bootstrap import paired_mean
from analysis.statistics.optimum import excesses
from analysis.statistics.quality import excess
from analysis.statistics.study import study
from bench.cli.main import main

TRUTH = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [1 / 3, 1 / 3, 1 / 3], [0.05, 0.9, 0.05]])
METHOD = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.6, 0.2, 0.2], [0.01, 0.98, 0.01]])
KL = float((TRUTH * np.log(TRUTH / METHOD)).sum(axis=1).mean())


def drawn(seed: int, repeats: int = 100) -> Predictions:
    """Predictions of METHOD on labels that the TRUTH draws."""
    truth, method = np.tile(TRUTH, (repeats, 1)), np.tile(METHOD, (repeats, 1))
    labels = (np.random.default_rng(seed).random(len(truth))[:, None] > truth.cumsum(axis=1)).sum(axis=1)
    return Predictions(np.log(method), labels, tuple(map(str, range(len(labels)))), truth=np.log(truth))


def terms(given: Predictions) -> np.ndarray:
    found = excess(given)
    assert found is not None
    return found


def test_its_expectation_is_the_kl_divergence_and_its_interval_covers_that() -> None:
    found = [paired_mean([terms(drawn(seed))]) for seed in range(200)]
    means = [one.mean for one in found]
    assert np.mean(means) == pytest.approx(KL, abs=4 * np.std(means) / np.sqrt(len(means)))
    covered = np.mean([one.low <= KL <= one.high for one in found])
    assert 0.9 <= covered <= 0.99  # of 0.95; three standard errors of 200 draws are 0.046


def test_the_pairing_takes_the_chance_of_the_labels_away() -> None:
    given = drawn(0)
    nll = -given.log_probs[np.arange(len(given.labels)), given.labels]
    half = (lambda one: (one.high - one.low) / 2)(paired_mean([terms(given)]))
    assert half == pytest.approx(1.96 * terms(given).std() / np.sqrt(len(nll)), rel=0.05)
    assert half < 0.75 * 1.96 * nll.std() / np.sqrt(len(nll))


def test_one_example_has_no_interval() -> None:
    with pytest.raises(ValueError, match="1 examples have no spread"):
        paired_mean([np.ones(1)])


def test_the_optimum_is_at_zero_and_a_task_without_truth_is_left_blank(store, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("analysis.report.FIGURES", {})
    for seed in (1, 2):
        given = drawn(7)
        for method, probs in (("bayes_optimal", given.truth), ("adamw", given.log_probs + 0.0)):
            spec = store.spec(method, "known", seed)
            store.add(spec, log_probs=probs[None].astype(np.float32), labels=given.labels, truth=given.truth)
        store.add(store.spec("adamw", "unknown", seed))
    found, notes = excesses(study(store.root))
    cells = {one.group.name: one for one in found}
    assert notes == [] and {one.group.task for one in found} == {"known"}
    optimum = cells["bayes_optimal"].estimate
    assert (optimum.mean, optimum.low, optimum.high) == pytest.approx((0, 0, 0), abs=1e-6)
    records = cells["adamw"].group.values("excess_nll")
    assert cells["adamw"].estimate.mean == pytest.approx(np.mean(records), abs=1e-9)
    assert main(["report", "--runs", str(store.root), "--out", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "tables.md").read_text()
    assert "## Distance to the optimum" in text
    lines = (tmp_path / "report" / "tables" / "optimum.csv").read_text().splitlines()
    assert sorted(line.split(",")[3:5] for line in lines[1:]) == [["known", "adamw"], ["known", "bayes_optimal"]]
