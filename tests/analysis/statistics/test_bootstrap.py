"""Paired differences: exact zeros, known effects, and intervals as wide as they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.records.predictions import Predictions
from analysis.statistics.bootstrap import Scorable, Scored, _counts, paired_difference, score_resamples
from bench.metrics import METRICS


def predictions(seed: int, sharpness: float = 1.0, size: int = 400, answers: int = 3) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = np.random.default_rng(0).integers(answers, size=size)
    logits = generator.normal(size=(size, answers)) + sharpness * np.eye(answers)[labels]
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return Predictions(log_probs, labels, tuple(map(str, range(size))))


def scored_of(given: Predictions) -> Scored:
    (scored,) = score_resamples([Scorable(given.log_probs, given.labels)])
    return scored


def nll_terms(given: Predictions) -> np.ndarray:
    return -given.log_probs[np.arange(len(given.labels)), given.labels]


@pytest.mark.parametrize("metric", METRICS)
def test_a_resample_is_the_metric_of_the_resampled_examples(metric):
    given = predictions(1)
    scored, counts = scored_of(given), _counts(400)
    for place in (0, 7):
        repeated = np.repeat(np.arange(400), counts[place])
        expected = METRICS[metric](given.log_probs[repeated], given.labels[repeated])
        assert scored.whole[metric] + scored.shifts[metric][place] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("metric", METRICS)
def test_equal_predictions_differ_by_exactly_zero(metric):
    scored = [scored_of(predictions(seed)) for seed in (1, 2, 3)]
    found = paired_difference(metric, scored, scored)
    assert (found.mean, found.low, found.high, found.agree, found.seeds) == (0.0, 0.0, 0.0, 3, 3)


@pytest.mark.parametrize("metric", METRICS)
def test_a_clear_difference_leaves_zero_out(metric):
    good = [scored_of(predictions(seed, 3.0)) for seed in (1, 2, 3)]
    poor = [scored_of(predictions(seed, 0.0)) for seed in (4, 5, 6)]
    found = paired_difference(metric, good, poor)
    assert found.low <= found.mean <= found.high
    assert found.agree == 3
    assert found.low > 0 if metric == "accuracy" else found.high < 0


def test_one_seed_agrees_with_scipy():
    """With one seed it is the usual paired bootstrap over examples."""
    good, poor = predictions(1, 1.2), predictions(2, 1.0)
    found = paired_difference("nll", [scored_of(good)], [scored_of(poor)])
    terms = nll_terms(good) - nll_terms(poor)
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


def test_seeds_count_too():
    """Disagreeing seeds widen the interval beyond that of the examples."""
    better, worse, base = (scored_of(predictions(seed, s)) for seed, s in ((1, 3.0), (2, 0.0), (3, 1.5)))
    mixed = paired_difference("nll", [better, worse], [base, base])
    apart = [paired_difference("nll", [run], [base]) for run in (better, worse)]
    assert mixed.low < apart[0].high and mixed.high > apart[1].low
    assert mixed.agree == 1


def test_p_of_one_seed_agrees_with_a_t_test():
    """For a mean of examples p is that of a paired t test, but for the bootstrap's standard error."""
    good, poor = predictions(1, 1.15, 2000), predictions(2, 1.0, 2000)
    found = paired_difference("nll", [scored_of(good)], [scored_of(poor)])
    expected = stats.ttest_rel(nll_terms(good), nll_terms(poor)).pvalue
    assert found.p == pytest.approx(expected, rel=0.15) and 0.001 < expected < 0.9


def test_no_difference_has_p_one():
    scored = [scored_of(predictions(1))]
    assert paired_difference("nll", scored, scored).p == 1.0


def test_one_example_has_no_spread():
    with pytest.raises(ValueError, match="at least two"):
        paired_difference("nll", *simulated(np.ones((2, 1))))


def test_one_example_more_in_every_seed_is_chance() -> None:
    """Accuracies that differ by the same amount in all seeds have no spread over seeds, and still prove nothing."""
    labels = np.zeros(1000, dtype=np.int64)
    right = np.log(np.tile([0.8, 0.2], (1000, 1)))
    ours, theirs = [], []
    for seed in range(2):
        wrong = right.copy()
        wrong[seed] = wrong[seed, ::-1]  # another example in each seed
        ours += score_resamples([Scorable(wrong, labels)])
        theirs += score_resamples([Scorable(right, labels)])
    found = paired_difference("accuracy", ours, theirs)
    assert found.mean == pytest.approx(-0.001) and found.low < -0.0015 and found.high > -0.0005 and found.p > 0.05
