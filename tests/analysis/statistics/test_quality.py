"""Metrics recomputed from predictions: by hand, against independent formulas, and at the edges of bins."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.calibration import calibration_curve

from analysis.records.load import load
from analysis.records.predictions import Predictions, read_predictions
from analysis.statistics import quality
from analysis.statistics.metric import metric_of
from analysis.statistics.quality import BINS, QUALITY
from analysis.statistics.seed_values import further
from analysis.statistics.study import study
from analysis.tables.seed_rows import FURTHER
from bench.metrics import bin_of


def binary(confidence: list[float], right: list[int]) -> Predictions:
    """Predictions of answer 0 with the given probabilities."""
    p = np.array(confidence)
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.stack([p, 1 - p], axis=1))
    return Predictions(log_probs, 1 - np.array(right), tuple(map(str, range(len(p)))))


def random(size: int = 1000, answers: int = 4, seed: int = 0, sharp: float = 2.0, honest: bool = False) -> Predictions:
    generator = np.random.default_rng(seed)
    logits = sharp * generator.normal(size=(size, answers))
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    labels = generator.integers(answers, size=size)
    if honest:  # labels drawn from the predictions: perfectly calibrated
        labels = (np.exp(log_probs).cumsum(axis=1) < generator.random((size, 1))).sum(axis=1).clip(max=answers - 1)
    return Predictions(log_probs, labels, tuple(map(str, range(size))))


def test_by_hand():
    """Four at 0.9, one of them wrong; two at 0.6, one of them wrong."""
    given = binary([0.9] * 4 + [0.6] * 2, [1, 1, 1, 0, 1, 0])
    assert quality.ece_15(given) == pytest.approx((4 * 0.15 + 2 * 0.1) / 6)
    assert quality.mce(given) == pytest.approx(0.15)
    assert quality.ece_adaptive(given) == pytest.approx((4 * 0.15 + 2 * 0.1) / 6)  # equal confidences share a bin
    apart = binary([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 1])  # every example is a bin of its own, which has no spread
    assert quality.ece_adaptive(apart) == quality.ece_debiased(apart) == pytest.approx((0.1 + 0.8 + 0.3 + 0.4) / 4)
    # of the two answers' probabilities the gaps are the same: 0.9 and 0.6, and 0.1 and 0.4
    assert quality.ece_classwise(given) == pytest.approx((4 * 0.15 + 2 * 0.1) / 6)
    # ties count by their mean error: 1/4, 1/4, 1/4, 1/4, then (1 + 1/2)/5, 2/6
    assert quality.aurc(given) == pytest.approx((4 * 0.25 + 1.5 / 5 + 2 / 6) / 6)
    h = -(np.array([0.9, 0.6]) * np.log([0.9, 0.6]) + np.array([0.1, 0.4]) * np.log([0.1, 0.4]))
    assert quality.entropy(given) == pytest.approx((4 * h[0] + 2 * h[1]) / 6)
    assert quality.excess_nll(given) is None
    truth = np.log(np.full((6, 2), 0.5))
    nll = -(3 * np.log(0.9) + np.log(0.1) + np.log(0.6) + np.log(0.4)) / 6
    assert quality.excess_nll(given._replace(truth=truth)) == pytest.approx(nll - np.log(2))


def test_certainty_falls_in_the_last_bin_and_edges_below():
    """Confidence 1.0 shares a bin with 0.99, and k/15 belongs to the bin below it."""
    exact = np.nextafter(1.0, 0)
    given = Predictions(
        np.log(np.array([[1.0, 1e-300], [exact, 1 - exact], [0.99, 0.01]])), np.array([0, 1, 0]), ("",) * 3
    )
    assert quality.mce(given) == pytest.approx((1 + exact + 0.99 - 2) / 3)
    assert bin_of(np.array([0.0, 1 / 15, 2 / 15, 2 / 15 + 1e-9, 1.0]), BINS).tolist() == [0, 0, 1, 2, 14]
    share, confidence = calibration_curve([1, 0, 1], [1.0, exact, 0.99], n_bins=BINS)  # scikit-learn agrees
    assert (share.tolist(), confidence.tolist()) == ([pytest.approx(2 / 3)], [pytest.approx((1 + exact + 0.99) / 3)])


@pytest.mark.parametrize("seed", range(3))
def test_equal_widths_agree_with_scikit_learn(seed):
    given = random(seed=seed)
    sure, right = quality._sure_right(given)
    share, confidence = calibration_curve(right, sure, n_bins=BINS)
    assert quality.mce(given) == pytest.approx(np.abs(share - confidence).max())
    probs = np.exp(given.log_probs)
    per_answer = []
    for answer in range(4):
        share, confidence = calibration_curve(given.labels == answer, probs[:, answer], n_bins=BINS)
        counts = np.bincount(bin_of(probs[:, answer], BINS), minlength=BINS)
        per_answer.append((np.abs(share - confidence) * counts[counts > 0]).sum() / len(probs))
    assert quality.ece_classwise(given) == pytest.approx(np.mean(per_answer))


def test_bins_of_equal_mass_hold_equally_many():
    given = random(1003)
    sizes = quality._equal_mass(given)[0].tolist()
    assert sum(sizes) == 1003 and len(sizes) == BINS and set(sizes) <= {66, 67}
    order = np.random.default_rng(0).permutation(1003)
    shuffled = Predictions(given.log_probs[order], given.labels[order], given.ids)
    assert quality.ece_adaptive(shuffled) == pytest.approx(quality.ece_adaptive(given))


def test_debiased_is_the_plain_one_less_its_simulated_bias():
    """Kumar et al. 2019: resample the accuracy of every bin, and see by how much the ECE grows."""
    given = random(600)
    bins = quality._equal_mass(given)
    generator, n = np.random.default_rng(1), len(given.labels)
    drawn = np.zeros(20_000)
    for count, confidence, accuracy in zip(*bins, strict=True):
        spread = (accuracy * (1 - accuracy) / count) ** 0.5
        drawn += count / n * np.abs(generator.normal(accuracy, spread, size=drawn.size) - confidence)
    plain = quality.ece_adaptive(given)
    assert quality.ece_debiased(given) == pytest.approx(2 * plain - drawn.mean(), abs=1e-3)


def test_debiasing_brings_a_calibrated_model_nearer_to_zero():
    plain, debiased = (
        np.mean([QUALITY[name](random(400, seed=seed, honest=True)) for seed in range(30)])
        for name in ("ece_adaptive", "ece_debiased")
    )
    assert plain > 0.04 and 0 < debiased < 0.7 * plain


def test_aurc_is_the_area_of_the_curve_and_ties_are_averaged():
    given = random()
    sure, right = quality._sure_right(given)
    order = np.argsort(-sure)
    risk = np.cumsum(1 - right[order]) / np.arange(1, len(order) + 1)
    assert quality.aurc(given) == pytest.approx(risk.mean())
    assert quality.aurc(given) == pytest.approx(integrate.trapezoid(risk, dx=1 / len(risk)), abs=0.01)
    tied = binary([0.8] * 10, [1] * 7 + [0] * 3)
    assert quality.aurc(tied) == pytest.approx(0.3)  # whatever the order


def test_entropy_agrees_with_scipy_and_takes_a_zero_probability():
    given = random()
    assert quality.entropy(given) == pytest.approx(stats.entropy(np.exp(given.log_probs), axis=1).mean())


def test_recomputed_tables_and_damage(store):
    logits = random(20).log_probs
    labels = np.arange(20) % 4
    truth = np.log(np.full((20, 4), 0.25))
    for seed in (1, 2):
        store.add(store.spec(seed=seed), log_probs=logits[None].astype(np.float32), labels=labels, truth=truth)
    rows, notes = further(study(store.root))
    record = load(store.root).results[0].records[0]
    given = read_predictions(record.folder, record.facts)
    assert notes == [] and rows[0].values["aurc"] == {1: quality.aurc(given), 2: quality.aurc(given)}
    assert rows[0].values["excess_nll"][1] == pytest.approx(record.metrics["nll"] - np.log(4))
    assert set(rows[0].values) == set(QUALITY) and all(metric_of(name).title != name for name in QUALITY)
    file = record.folder / "predictions.safetensors"
    file.write_bytes(b"x")
    damaged = study(store.root)
    rows, _ = further(damaged)
    assert record.key in damaged.runs.excluded[0] and set(rows[0].values["aurc"]) == {2}
    assert FURTHER.csv_text(damaged).count("\n") == 1 + len(QUALITY)
