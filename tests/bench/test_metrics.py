"""The four metrics against numbers worked by hand and against a slow loop."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from bench.metrics import METRICS, accuracy, brier, contradicted, ece, mixture, nll, score


def logs(*rows: list[float]) -> Any:
    return np.log(np.array(rows, dtype=np.float64))


LABELS = np.array([0, 1, 1, 2])
PREDICTED = logs([0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.3, 0.2], [0.05, 0.9, 0.05])  # right, right, wrong, wrong


def test_accuracy_by_hand() -> None:
    assert accuracy(PREDICTED, LABELS) == 0.5


def test_nll_by_hand() -> None:
    by_hand = -(math.log(0.7) + math.log(0.6) + math.log(0.3) + math.log(0.05)) / 4
    assert nll(PREDICTED, LABELS) == pytest.approx(by_hand, abs=1e-14)


def test_brier_by_hand() -> None:
    # 0.09+0.04+0.01 = 0.14; 0.01+0.16+0.09 = 0.26; 0.25+0.49+0.04 = 0.78; 0.0025+0.81+0.9025 = 1.715
    assert brier(PREDICTED, LABELS) == pytest.approx((0.14 + 0.26 + 0.78 + 1.715) / 4, abs=1e-14)


def test_ece_by_hand() -> None:
    # one example a bin: |1 - 0.7|, |1 - 0.6|, |0 - 0.5|, |0 - 0.9|
    assert ece(PREDICTED, LABELS) == pytest.approx((0.3 + 0.4 + 0.5 + 0.9) / 4, abs=1e-14)


def test_ece_nets_out_inside_a_bin_and_not_across_bins() -> None:
    # 0.61 right, 0.69 wrong: one bin, accuracy 0.5, confidence 0.65. 0.71 right: another bin.
    predicted = logs([0.61, 0.39], [0.69, 0.31], [0.71, 0.29])
    assert ece(predicted, np.array([0, 1, 0])) == pytest.approx(2 / 3 * 0.15 + 1 / 3 * 0.29, abs=1e-14)


def test_ece_of_one_example_is_its_distance_from_certainty() -> None:
    assert ece(logs([0.8, 0.2]), np.array([0])) == pytest.approx(0.2, abs=1e-14)
    assert ece(logs([0.8, 0.2]), np.array([1])) == pytest.approx(0.8, abs=1e-14)


@pytest.mark.parametrize(
    ("edge", "below", "above"),
    [(0.5, 0.45, 0.55), (0.6, 0.55, 0.65), (0.8, 0.75, 0.85)],
)
def test_an_edge_belongs_to_the_bin_below_it(edge: float, below: float, above: float) -> None:
    """(lo, hi]: a right edge example and a wrong one net out with what shares their bin, and with nothing else."""

    def two(other: float) -> float:
        rest = (1 - edge) / 3, (1 - other) / 3  # four answers, so that 0.45 can be the largest
        return ece(logs([edge, *[rest[0]] * 3], [other, *[rest[1]] * 3]), np.array([0, 1]))

    together = abs((1 - edge) + (0 - below)) / 2
    apart = (abs(1 - edge) + above) / 2
    assert two(below) == pytest.approx(together, abs=1e-12)
    assert two(above) == pytest.approx(apart, abs=1e-12)
    assert together != pytest.approx((1 - edge + below) / 2)  # the two cases can be told apart


def test_full_confidence_falls_in_the_last_bin() -> None:
    # 1.0 right and 0.95 wrong share the bin (0.9, 1.0]: |1 - 1.0 + 0 - 0.95| / 2
    certain = np.array([[0.0, -800.0]])
    predicted = np.concatenate([certain, logs([0.95, 0.05])])
    assert ece(predicted, np.array([0, 1])) == pytest.approx(0.475, abs=1e-12)
    # 1.0 wrong and 0.95 right net out to 0.95 too: (0 - 1 + 1 - 0.95); an extra bin for 1.0 would give (1 + 0.05) / 2
    assert ece(predicted, np.array([1, 0])) == pytest.approx(0.475, abs=1e-12)


def test_full_confidence_that_is_right_costs_nothing() -> None:
    assert ece(np.array([[0.0, -800.0]] * 3), np.array([0, 0, 0])) == 0


def test_an_even_guess_between_two_as_stored_in_float32_falls_in_the_bin_up_to_one_half() -> None:
    stored = np.log(np.full((1, 2, 2), 0.5)).astype(np.float32)
    both = np.concatenate([mixture(stored), logs([0.55, 0.45])])
    # two even guesses, right and wrong, net out; 0.55 is alone in (0.5, 0.6]
    assert ece(both, np.array([0, 1, 0])) == pytest.approx(0.45 / 3, abs=1e-6)


def test_the_number_of_bins_can_be_changed() -> None:
    predicted = logs([0.61, 0.39], [0.69, 0.31])
    assert ece(predicted, np.array([0, 1]), bins=10) == pytest.approx(0.15, abs=1e-12)
    assert ece(predicted, np.array([0, 1]), bins=100) == pytest.approx((0.39 + 0.69) / 2, abs=1e-12)
    assert ece(predicted, np.array([1, 1]), bins=1) == pytest.approx(0.65, abs=1e-12)


# --- the mixture ------------------------------------------------------------------------------------------------------


def test_probabilities_are_averaged_and_not_logits() -> None:
    draws = np.stack([logs([0.9, 0.1]), logs([0.2, 0.8])])
    mean = np.exp(mixture(draws))
    assert mean == pytest.approx(np.array([[0.55, 0.45]]), abs=1e-14)
    # averaging logits would give sqrt(0.18) : sqrt(0.08) = 0.6 : 0.4
    assert mean[0, 0] != pytest.approx(0.6, abs=1e-3)


def test_one_draw_is_its_own_mixture() -> None:
    assert mixture(PREDICTED[None]) == pytest.approx(PREDICTED, abs=1e-15)


def test_the_mixture_is_normalised() -> None:
    rng = np.random.default_rng(0)
    probs = rng.dirichlet([0.1] * 4, size=(10, 50))
    assert np.exp(mixture(np.log(probs.clip(1e-300)))).sum(axis=1) == pytest.approx(np.ones(50), abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_sums_are_in_float64_whatever_was_stored(dtype: Any) -> None:
    stored = np.log(np.array([[[0.7, 0.3]], [[0.6, 0.4]]])).astype(dtype)
    mixed = mixture(stored)
    assert mixed.dtype == np.float64
    wide = stored.astype(np.float64)
    assert mixed[0, 0] == pytest.approx(math.log((math.exp(wide[0, 0, 0]) + math.exp(wide[1, 0, 0])) / 2), abs=1e-15)


def test_a_mean_over_many_float32_examples_is_taken_in_float64() -> None:
    many = np.full((200_000, 2), np.float32(math.log(0.1)), dtype=np.float32)
    many[0] = np.float32(-100.0)
    by_hand = (100.0 + 199_999 * -float(np.float32(math.log(0.1)))) / 200_000
    assert nll(many, np.zeros(200_000, int)) == pytest.approx(by_hand, rel=1e-12)


def test_log_probabilities_of_minus_a_thousand_stay_finite() -> None:
    """Probabilities underflow, log-probabilities do not: the loss is 1000, and no row is inf."""
    draws = np.array([[[0.0, -1000.0]], [[0.0, -1002.0]]])
    found = score(draws, np.array([1]))
    by_hand = 1000 - math.log((1 + math.exp(-2)) / 2)
    assert found["nll"] == pytest.approx(by_hand, abs=1e-9)
    assert found["brier"] == pytest.approx(2.0, abs=1e-12)
    assert found["ece"] == pytest.approx(1.0, abs=1e-12)
    assert found["accuracy"] == 0
    assert all(math.isfinite(value) for value in found.values())


def test_one_sure_draw_in_ten_bounds_the_loss() -> None:
    draws = np.full((10, 1, 2), 0.0)
    draws[:, 0, 1] = -1000.0
    draws[3, 0] = [-1000.0, 0.0]
    assert score(draws, np.array([1]))["nll"] == pytest.approx(math.log(10), abs=1e-12)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_probability_of_exactly_zero_for_a_wrong_answer_is_no_nan() -> None:
    draws = np.array([[[0.0, -np.inf], [math.log(0.5), math.log(0.5)]]])
    found = score(draws, np.array([0, 1]))
    assert found["nll"] == pytest.approx(math.log(2) / 2)
    assert found["brier"] == pytest.approx(0.25)


@pytest.mark.parametrize("shape", [(4, 2), (2,), (0, 4, 2), (1, 0, 2), (1, 4, 0), (1, 1, 4, 2)])
def test_predictions_of_another_shape_are_refused_with_the_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"Predictions have shape \(.*\): they should be \(draws, examples, answers\)"):
        mixture(np.zeros(shape))


# --- against a slow loop ----------------------------------------------------------------------------------------------


def slow(draws: Any, labels: Any) -> dict[str, float]:
    """The definitions, one number at a time."""
    count, answers = draws.shape[1], draws.shape[2]
    right, loss, squares = 0, 0.0, 0.0
    bins: list[list[tuple[float, int]]] = [[] for _ in range(10)]
    for n in range(count):
        probs = [sum(math.exp(draw[n][c]) for draw in draws) / len(draws) for c in range(answers)]
        best = max(range(answers), key=lambda c: probs[c])
        hit = int(best == labels[n])
        right += hit
        loss -= math.log(probs[labels[n]])
        squares += sum((probs[c] - (c == labels[n])) ** 2 for c in range(answers))
        for b in range(10):
            if b / 10 < probs[best] <= (b + 1) / 10:
                bins[b].append((probs[best], hit))
    gap = 0.0
    for members in bins:
        if members:
            confidence = sum(p for p, _ in members) / len(members)
            share = sum(hit for _, hit in members) / len(members)
            gap += len(members) / count * abs(share - confidence)
    return {"accuracy": right / count, "ece": gap, "nll": loss / count, "brier": squares / count}


@pytest.mark.parametrize("answers", [2, 4, 5])
@pytest.mark.parametrize("draws", [1, 10])
def test_the_metrics_are_those_of_a_slow_loop(answers: int, draws: int) -> None:
    rng = np.random.default_rng(answers * 100 + draws)
    logits = rng.normal(scale=3, size=(draws, 203, answers))
    log_probs = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    labels = rng.integers(answers, size=203)
    found, expected = score(log_probs, labels), slow(log_probs, labels)
    assert found.keys() == expected.keys() == METRICS.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


def test_the_order_of_examples_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    log_probs = np.log(rng.dirichlet([0.5] * 4, size=(3, 101)).clip(1e-300))
    labels = rng.integers(4, size=101)
    order = rng.permutation(101)
    assert score(log_probs[:, order], labels[order]) == pytest.approx(score(log_probs, labels), abs=1e-12)


def test_scores_are_plain_floats() -> None:
    assert {type(value) for value in score(PREDICTED[None], LABELS).values()} == {float}


def test_rounding_at_ties_and_bin_edges_contradicts_nothing_and_a_changed_digit_does() -> None:
    """Two right ways to average draws differ in the last digit, and with it in the answer at a tie."""
    generator = np.random.default_rng(3)
    draws = np.log(generator.dirichlet(np.ones(3), size=(4, 50)))
    draws[1::2, :20] = draws[::2, :20][:, :, [1, 0, 2]]  # two answers tie in the mixture
    labels = generator.integers(0, 3, 50)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        with np.errstate(divide="ignore"):
            other = np.log(np.exp(draws[order]).mean(axis=0))
        found = {name: metric(other, labels) for name, metric in METRICS.items()}
        assert contradicted(found, score(draws, labels), mixture(draws)) == ""
    stated = score(draws[:, 20:], labels[20:])
    assert contradicted({**stated, "unknown": 1.0}, stated, mixture(draws[:, 20:])) == ""
    for name, value in stated.items():
        said = contradicted({name: value + 1e-3}, stated, mixture(draws[:, 20:]))
        assert said.startswith(f"facts.json says {name} is")
    assert contradicted({"nll": found["nll"] + 1e-3}, score(draws, labels), mixture(draws)) != "", "ties move no mean"
