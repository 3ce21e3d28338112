"""A store as a DataFrame: one row per evaluation and metric, the numbers of the leaderboard."""

from __future__ import annotations

import pytest

import analysis
from analysis.records.load import load
from analysis.tables.leaderboard import leaderboard_rows


def fill(store):
    for seed, nll in ((1, 0.2), (2, 0.6)):
        store.add(store.spec("adamw", seed=seed), {"nll": nll, "accuracy": 0.5})
        spec = store.spec("ivon", seed=seed, options={"tau": 0.5}, fit_options={"lr": 0.1}, bases=(store.spec().fit,))
        store.add(spec, {"nll": 0.1}, partial=True)
    store.add(store.spec("ivon", options={"tau": 0.0}, purpose="sweep", variant="s"), {"nll": 3.0})


def test_a_row_per_evaluation_and_metric(store):
    fill(store)
    frame = analysis.load_results(store.root)
    assert len(frame) == 2 * 2 + 2 + 1 and not frame.duplicated(["key", "metric"]).any()
    ivon = frame[(frame.method == "ivon") & (frame.purpose == "result")]
    assert ivon["spec.options.tau"].tolist() == [0.5, 0.5] and ivon["spec.fit.options.lr"].tolist() == [0.1, 0.1]
    assert set(ivon["spec.fit.bases"]) == {"adamw"} and set(ivon["spec.fit.train.steps"]) == {100}
    assert set(ivon["flags"]) == {"partial"} and not ivon.ranked.any()
    assert frame[frame.purpose == "sweep"].value.tolist() == [3.0]


def test_its_means_are_those_of_the_leaderboard(store):
    fill(store)
    frame = analysis.load_results(str(store.root)).query("purpose == 'result'")
    means = frame.groupby(["method", "metric"]).value.agg(["mean", "sem", "count"])
    for row in leaderboard_rows(load(store.root).results):
        expected = means.loc[row["method"], row["metric"]]
        assert (row["mean"], row["n_seeds"]) == (pytest.approx(expected["mean"]), expected["count"])
        assert row["sem"] == pytest.approx(expected["sem"])


def test_a_store_without_results_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="holds no result"):
        analysis.load_results(tmp_path)
