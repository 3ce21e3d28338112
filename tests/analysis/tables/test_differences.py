"""Paired differences: exact zeros, known effects, and the metrics that the bootstrap averages."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import stats

from analysis.records.load import load
from analysis.records.predictions import Predictions
from analysis.statistics.bootstrap import SMALLEST, TERMS, Scored, _counts, paired_difference, score_resamples
from analysis.tables.differences import compare, differences, differences_csv
from bench.metrics import METRICS


def predictions(seed: int, sharpness: float = 1.0, size: int = 400, answers: int = 3) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = np.random.default_rng(0).integers(answers, size=size)
    logits = generator.normal(size=(size, answers)) + sharpness * np.eye(answers)[labels]
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return Predictions(log_probs, labels, tuple(map(str, range(size))))


@pytest.mark.parametrize("metric", TERMS)
def test_terms_average_to_the_metric(metric):
    given = predictions(1)
    assert TERMS.keys() <= METRICS.keys()
    mean = TERMS[metric](given).mean(axis=0)
    assert np.abs(mean).sum() == pytest.approx(METRICS[metric](given.log_probs, given.labels), abs=1e-12)


@pytest.mark.parametrize("metric", TERMS)
def test_equal_predictions_differ_by_exactly_zero(metric):
    scored = [score_resamples(predictions(seed)) for seed in (1, 2, 3)]
    found = paired_difference(metric, scored, scored)
    assert (found.mean, found.low, found.high, found.agree, found.seeds) == (0.0, 0.0, 0.0, 3, 3)


@pytest.mark.parametrize("metric", TERMS)
def test_a_clear_difference_leaves_zero_out(metric):
    good = [score_resamples(predictions(seed, 3.0)) for seed in (1, 2, 3)]
    poor = [score_resamples(predictions(seed, 0.0)) for seed in (4, 5, 6)]
    found = paired_difference(metric, good, poor)
    assert found.low <= found.mean <= found.high
    assert found.agree == 3
    assert found.low > 0 if metric == "accuracy" else found.high < 0


def test_one_seed_agrees_with_scipy():
    """With one seed it is the usual paired bootstrap over examples."""
    good, poor = predictions(1, 1.2), predictions(2, 1.0)
    found = paired_difference("nll", [score_resamples(good)], [score_resamples(poor)])
    terms = TERMS["nll"](good) - TERMS["nll"](poor)
    theirs = stats.bootstrap((terms,), np.mean, method="percentile", n_resamples=4000, rng=1).confidence_interval
    width = theirs.high - theirs.low
    assert found.low == pytest.approx(theirs.low, abs=0.1 * width)
    assert found.high == pytest.approx(theirs.high, abs=0.1 * width)


def test_where_only_seeds_vary_it_is_a_t_test():
    """Every example alike: the interval is that of scipy's t over the seeds."""
    found = paired_difference("nll", *simulated(np.array([0.1, 0.4, 0.3])[:, None] * np.ones(30)))
    theirs = stats.ttest_1samp([0.1, 0.4, 0.3], 0)
    interval = theirs.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((interval.low, interval.high, theirs.pvalue))


def simulated(differences: np.ndarray) -> tuple[list[Scored], list[Scored]]:
    """Runs of two methods whose NLL differ by (S, N) values."""
    means = _counts(differences.shape[1]) @ differences.T / differences.shape[1]  # (R, S)
    size = differences.shape[1]
    ours = [
        Scored({"nll": row.mean()}, {"nll": column}, size) for row, column in zip(differences, means.T, strict=True)
    ]
    return ours, [Scored({"nll": 0.0}, {"nll": np.zeros(len(means))}, size)] * len(ours)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(
    ("by_seed", "by_example", "by_both"), [(1.0, 0.1, 0.1), (0.01, 1.0, 0.1), (0.15, 1.0, 1.0), (0.0, 0.1, 1.0)]
)
def test_false_positives_are_as_rare_as_promised(seeds, by_seed, by_example, by_both):
    """No true difference; noise of seeds, of examples (shared by seeds), of both alike, and of neither dominates."""
    rng, trials, examples = np.random.default_rng(seeds), 1000, 30
    found = 0
    for _ in range(trials):
        noise = by_seed * rng.normal(size=(seeds, 1)) + by_example * rng.normal(size=(1, examples))
        estimate = paired_difference("nll", *simulated(noise + by_both * rng.normal(size=(seeds, examples))))
        assert (estimate.p <= 0.05) == (estimate.low > 0 or estimate.high < 0)
        found += estimate.p <= 0.05
    assert found / trials <= 0.075


def test_one_seed_speaks_of_examples_only(store):
    for method, sharpness in (("adamw", 0.0), ("ivon", 3.0)):
        given = predictions(len(method), sharpness)
        store.add(store.spec(method), log_probs=given.log_probs[None].astype(np.float32), labels=given.labels)
    found, _ = compare(load(store.root))
    assert {d.covers for d in found} == {"examples only"} and "1/1 examples only p=" in differences(found)
    assert differences_csv(found).count(",1,1,examples only,") == len(found)


def test_one_example_has_no_spread(store):
    for method in ("adamw", "ivon"):
        store.add(store.spec(method), log_probs=np.log(np.full((1, 1, 2), 0.5, np.float32)), labels=np.array([0]))
    found, notes = compare(load(store.root))
    assert found == [] and "one example has no spread" in notes[0]
    with pytest.raises(ValueError, match="at least two"):
        paired_difference("nll", *simulated(np.ones((2, 1))))


def test_seeds_count_too():
    """Disagreeing seeds widen the interval beyond that of the examples."""
    better, worse, base = (score_resamples(predictions(seed, s)) for seed, s in ((1, 3.0), (2, 0.0), (3, 1.5)))
    mixed = paired_difference("nll", [better, worse], [base, base])
    apart = [paired_difference("nll", [run], [base]) for run in (better, worse)]
    assert mixed.low < apart[0].high and mixed.high > apart[1].low
    assert mixed.agree == 1


def fill(store, methods):
    for method, sharpness in methods.items():
        for seed in (1, 2, 3):
            given = predictions(seed + 10 * len(method), sharpness)
            store.add(
                store.spec(method, seed=seed), log_probs=given.log_probs[None].astype(np.float32), labels=given.labels
            )


def test_compare_and_render(store):
    fill(store, {"adamw": 0.0, "ivon": 3.0})
    found, notes = compare(load(store.root))
    assert notes == []
    assert {d.metric: d.verdict for d in found} == dict.fromkeys(TERMS, "better")
    expected = np.mean(
        [r.metrics["nll"] for r in found[0].group.records]
    ) - np.mean([r.metrics["nll"] for r in found[0].baseline.records])  # fmt: skip
    by_metric = {d.metric: d for d in found}
    assert by_metric["nll"].estimate.mean == pytest.approx(expected)
    text = re.sub(" +", " ", differences(found))
    assert "| notes | ivon | **+" in text and "better 3/3" in text and "4 of 4 comparisons" in text
    assert differences_csv(found).count("\n") == 5
    assert compare(load(store.root))[0] == found  # the resampling is fixed


def test_another_baseline_and_none(store):
    fill(store, {"adamw": 0.0, "ivon": 3.0})
    found, _ = compare(load(store.root), baseline="ivon")
    assert {d.verdict for d in found} == {"worse"}
    found, notes = compare(load(store.root), baseline="missing")
    assert found == [] and "no result of the baseline 'missing'" in notes[0]
    assert differences(found) == ""


def test_damaged_predictions_are_named(store, capsys):
    fill(store, {"adamw": 0.0, "ivon": 3.0})
    record = next(g for g in load(store.root).results if g.name == "ivon").records[0]
    file = record.folder / "predictions.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    found, notes = compare(load(store.root))
    assert {d.estimate.seeds for d in found} == {2}
    assert record.key in notes[0] and record.key in capsys.readouterr().err


def test_other_examples_are_not_paired(store):
    given = predictions(1)
    store.add(store.spec("adamw"), log_probs=given.log_probs[None].astype(np.float32), labels=given.labels)
    store.add(store.spec("ivon"), log_probs=given.log_probs[None, :-1].astype(np.float32), labels=given.labels[:-1])
    found, notes = compare(load(store.root))
    assert found == [] and "do not share seeds on the same examples" in notes[0]


def test_p_is_corrected(store):
    """A clear difference has a small p; Holm multiplies it by the number of comparisons."""
    fill(store, {"adamw": 0.0, "ivon": 3.0, "same": 0.0, "swag": 3.0})
    found, _ = compare(load(store.root))
    ivon, same, swag = (
        next(d for d in found if d.group.name == m and d.metric == "nll") for m in ("ivon", "same", "swag")
    )
    first, second = sorted((ivon, swag), key=lambda d: d.estimate.p)
    assert SMALLEST <= first.estimate.p < 0.01
    assert first.p_holm == pytest.approx(3 * first.estimate.p) and same.p_holm == same.estimate.p > 0.05
    assert second.p_holm == pytest.approx(max(first.p_holm, 2 * second.estimate.p))
    assert (ivon.verdict, same.verdict) == ("better", "no difference shown")
    assert f"p={ivon.p_holm:.2g}" in differences(found)


def test_p_of_one_seed_agrees_with_a_t_test():
    """For a mean of examples p is that of a paired t test, but for the bootstrap's standard error."""
    good, poor = predictions(1, 1.15, 2000), predictions(2, 1.0, 2000)
    found = paired_difference("nll", [score_resamples(good)], [score_resamples(poor)])
    expected = stats.ttest_rel(TERMS["nll"](good), TERMS["nll"](poor)).pvalue
    assert found.p == pytest.approx(expected, rel=0.15) and 0.001 < expected < 0.9


def test_no_difference_has_p_one():
    scored = [score_resamples(predictions(1))]
    assert paired_difference("nll", scored, scored).p == 1.0
