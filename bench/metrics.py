"""The metrics of the protocol: one table of pure functions of stored predictions. numpy only: analysis uses them too.

Notation: S draws, N examples, C answers. Every mean is over examples, never a mean of batch means.

A metric is declared once, as a :class:`Metric` in ``METRICS``: its name, how it is shown, which direction is better and
its terms per example. Scores, tables, differences, ranks and figures all read that table.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Labels = NDArray[np.integer]
Terms = Callable[[Floats, Labels], NDArray[np.float64]]

BINS = 10  # PROTOCOL section 3
AGREE = 1e-9  # a stored metric and the recomputed one, relative and absolute
ROUNDING = 1e-12  # of a probability: far above what float64 sums lose, far below any difference that counts


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric: how it is computed from predictions, and how it is shown.

    Attributes:
        name: its identifier in records and CSV files.
        title: its name in tables, with its unit.
        better: 1 where higher is better, -1 where lower is better, 0 where neither is.
        scale: factor between the stored value (fractions, nats) and the displayed one.
        digits: displayed decimals.
        terms: (N, C) log-probabilities and (N,) labels to (N,) terms, whose mean is the metric; or to (N, B) terms, of
            which the metric is ``sum_b |mean_n terms_nb|``. Every metric of ``METRICS`` has them; a metric of another
            form goes to ``analysis/statistics/quality.py``.
        jumps: whether rounding can move a term by 1: at a tie of two answers, or at the edge of a bin.
    """

    name: str
    title: str
    better: int = 0
    scale: float = 1.0
    digits: int = 3
    terms: Terms | None = None
    jumps: bool = False

    def __call__(self, log_probs: Floats, labels: Labels) -> float:
        """The metric of (N, C) log-probabilities against (N,) labels."""
        if self.terms is None:
            raise TypeError(f"The metric '{self.name}' has no terms per example: it cannot be computed from these.")
        terms = self.terms(log_probs, labels)
        return float(terms.mean() if terms.ndim == 1 else np.abs(terms.sum(axis=0)).sum() / len(terms))

    @property
    def heading(self) -> str:
        """The title and the direction."""
        arrow = {1: " ↑", -1: " ↓", 0: ""}[self.better]
        return f"{self.title}{arrow}"

    def show(self, value: float) -> str:
        """A value in the metric's scale and digits; never a negative zero."""
        return f"{round(value * self.scale, self.digits) + 0.0:.{self.digits}f}"


def mixture(log_probs: Floats) -> NDArray[np.float64]:
    """(N, C) log of the probability averaged over draws, from (S, N, C) log-probabilities.

    log (1/S) sum_s p_s = logsumexp_s log p_s - log S, in float64. Probabilities are averaged, never logits.
    """
    wide = np.asarray(log_probs, dtype=np.float64)
    if wide.ndim != 3 or 0 in wide.shape:
        raise ValueError(f"Predictions have shape {wide.shape}: they should be (draws, examples, answers), none empty.")
    mixed: NDArray[np.float64] = np.logaddexp.reduce(wide, axis=0) - np.log(wide.shape[0])
    return mixed


def bin_of(values: Floats, bins: int = BINS) -> NDArray[np.intp]:
    """The index of each value's bin, of equal widths (lo, hi] from 0 to 1; 0 falls in the first."""
    return np.clip(np.ceil(values * bins).astype(np.intp) - 1, 0, bins - 1)


def _probs(log_probs: Floats) -> NDArray[np.float64]:
    probs: NDArray[np.float64] = np.exp(np.asarray(log_probs, np.float64))
    return probs


def _right(log_probs: Floats, labels: Labels) -> NDArray[np.float64]:
    """(N,) 1 where the most probable answer is the label, else 0."""
    right: NDArray[np.float64] = (np.argmax(log_probs, axis=1) == labels).astype(np.float64)
    return right


def _surprise(log_probs: Floats, labels: Labels) -> NDArray[np.float64]:
    """(N,) -log p(y_n), in nats."""
    lost: NDArray[np.float64] = -np.asarray(log_probs, np.float64)[np.arange(len(labels)), labels]
    return lost


def _squared_error(log_probs: Floats, labels: Labels) -> NDArray[np.float64]:
    """(N,) sum_c (p_nc - [y_n = c])^2, in [0, 2]."""
    probs = _probs(log_probs)
    squares: NDArray[np.float64] = ((probs - np.eye(probs.shape[1])[labels]) ** 2).sum(axis=1)
    return squares


def _gap_by_bin(log_probs: Floats, labels: Labels, bins: int = BINS) -> NDArray[np.float64]:
    """(N, bins) of right - confidence, in the column of the confidence's bin; confidence 1.0 falls in the last bin."""
    confidence = _probs(log_probs).max(axis=1)
    gaps = np.zeros((len(labels), bins))
    gaps[np.arange(len(labels)), bin_of(confidence, bins)] = _right(log_probs, labels) - confidence
    return gaps


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "Accuracy (%)", 1, 100, 1, _right, jumps=True),
        Metric("ece", "ECE × 100", -1, 100, 1, _gap_by_bin, jumps=True),
        Metric("nll", "NLL (nats)", -1, terms=_surprise),
        Metric("brier", "Brier", -1, terms=_squared_error),
    )
}
EXCESS_NLL = Metric("excess_nll", "NLL over Bayes-optimal (nats)", -1)  # needs the true answer distribution


def accuracy(log_probs: Floats, labels: Labels) -> float:
    """Fraction of examples whose most probable answer is the label; (N, C) and (N,)."""
    return METRICS["accuracy"](log_probs, labels)


def nll(log_probs: Floats, labels: Labels) -> float:
    """Mean negative log-likelihood of the labels in nats: -1/N sum_n log p(y_n)."""
    return METRICS["nll"](log_probs, labels)


def brier(log_probs: Floats, labels: Labels) -> float:
    """Mean over examples of the squared error summed over answers: 1/N sum_n sum_c (p_nc - [y_n = c])^2, in [0, 2]."""
    return METRICS["brier"](log_probs, labels)


def ece(log_probs: Floats, labels: Labels, bins: int = BINS) -> float:
    """Expected calibration error: sum_b (n_b / N) |accuracy_b - confidence_b| over equal-width bins (lo, hi].

    Confidence is the largest probability; 1.0 falls in the last bin. A fraction, not a percentage.
    Guo et al. 2017, equation 3.
    """
    gaps = _gap_by_bin(log_probs, labels, bins)
    return float(np.abs(gaps.sum(axis=0)).sum() / len(labels))


def score(log_probs: Floats, labels: Labels, truth: Floats | None = None) -> dict[str, float]:
    """All metrics of the mixture over draws of (S, N, C) log-probabilities, against (N,) labels.

    With the (N, C) log-probabilities of the true answers also ``excess_nll``, the NLL less that of the truth.
    """
    mixed = mixture(log_probs)
    found = {name: metric(mixed, labels) for name, metric in METRICS.items()}
    if truth is not None:
        found[EXCESS_NLL.name] = found["nll"] - nll(truth, labels)
    return found


def contradicted(stated: Mapping[str, float], found: Mapping[str, float], mixed: Floats) -> str:
    """The first of the ``stated`` metrics that is not the one ``found`` in predictions, as a phrase; "" if all are.

    ``mixed`` holds the (N, C) log-probabilities that ``found`` was computed from. Sums differ in the last digit between
    machines and versions of numpy, and with them the answer at a tie: each undecided example may move a metric that
    ``jumps`` by 2 / N. Metrics that ``found`` lacks are left alone.
    """
    for name in sorted(set(stated) & set(found)):
        metric = METRICS.get(name)
        slack = 2 * _undecided(mixed) / len(mixed) if metric is not None and metric.jumps else 0.0
        if not math.isclose(stated[name], found[name], rel_tol=AGREE, abs_tol=AGREE + slack):
            return f"facts.json says {name} is {stated[name]:.9g}, its predictions give {found[name]:.9g}"
    return ""


def _undecided(mixed: Floats) -> int:
    """The number of examples that rounding could give another answer, or another bin of confidence."""
    ordered = np.sort(_probs(mixed), axis=1)
    edges = ordered[:, -1] * BINS
    tied = ordered[:, -1] - ordered[:, -2] < ROUNDING
    return int((tied | (np.abs(edges - np.round(edges)) < ROUNDING * BINS)).sum())
