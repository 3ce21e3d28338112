"""Statistics of a run's predictions, computed once while they are in memory."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.records.evaluation import Evaluation
from analysis.records.predictions import Predictions
from analysis.statistics.bootstrap import Scorable
from analysis.statistics.detection import familiarity, pair
from analysis.statistics.quality import QUALITY, excess
from analysis.statistics.reliability import Reliability, reliability
from bench.metrics import METRICS, mixture

BY_DRAWS = ("accuracy", "nll")  # the metrics that are followed over draws
MOST_POINTS = 64  # of a curve over draws


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """A run's predictions in brief. Sweep points have a reliability diagram only, tuning runs nothing.

    Attributes:
        examples: a hash of ids and labels: runs with the same one predict the same examples.
        answers: number of answers.
        bins: the reliability diagram.
        given: mixture and labels, from which examples are resampled; None but for results.
        quality: the further metrics.
        by_draws: number of draws to metrics of the mixture over so many first draws; empty with a single draw.
        familiarity: scores per example, where the run is one of a pair for detection out of distribution.
        excess: (N,) -log p of the label less that of the true answer distribution; None where that is not stored.
    """

    examples: str
    answers: int
    bins: Reliability
    given: Scorable | None = None
    quality: Mapping[str, float] = dataclasses.field(default_factory=dict)
    by_draws: Mapping[int, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    familiarity: Mapping[str, NDArray[np.float64]] = dataclasses.field(default_factory=dict)
    excess: NDArray[np.float64] | None = None


class Measurements(dict[str, Measured]):
    """The measured runs by key."""

    def visitor(self, records: Sequence[Evaluation]) -> _Visitor:
        """A function that measures each of ``records`` as it is read."""
        results = [record for record in records if record.spec.purpose == "result"]
        away = {pair(record) for record in results if record.spec.data.task != record.spec.fit.data.task}
        paired = {record.key for record in results if pair(record) in away} if away else set()
        return _Visitor(self, paired)


@dataclasses.dataclass(frozen=True)
class _Visitor:
    into: Measurements
    paired: set[str]  # keys of the runs that detection needs

    def __call__(self, record: Evaluation, given: Predictions) -> None:
        if record.spec.purpose != "tune":
            self.into[record.key] = measure(given, record.spec.purpose == "result", record.key in self.paired)


def measure(given: Predictions, result: bool = True, paired: bool = False) -> Measured:
    """A run's predictions in brief; less of them for a sweep point, more for one of a pair for detection."""
    brief = Measured(_examples(given), given.log_probs.shape[1], reliability(given))
    if not result:
        return brief
    quality = {name: metric(given) for name, metric in QUALITY.items()}
    return dataclasses.replace(
        brief,
        given=Scorable(given.log_probs, given.labels),
        quality={name: value for name, value in quality.items() if value is not None},
        by_draws=over_draws(given),
        familiarity=familiarity(given) if paired else {},
        excess=excess(given),
    )


def _examples(given: Predictions) -> str:
    ids = "\0".join(given.ids).encode()
    return hashlib.sha256(ids + b"\0" + np.ascontiguousarray(given.labels, np.int64).tobytes()).hexdigest()


def over_draws(given: Predictions) -> dict[int, dict[str, float]]:
    """The metrics of the mixture over the first 1, 2, ... draws; of very many draws, at evenly spread numbers."""
    if given.draws is None or len(given.draws) < 2:
        return {}
    total = len(given.draws)
    counts = sorted({round(count) for count in np.linspace(1, total, min(total, MOST_POINTS))})
    found = {}
    with np.errstate(divide="ignore"):
        sums = np.cumsum(np.exp(given.draws, dtype=np.float64), axis=0)
        for count in counts:
            mixed = np.log(sums[count - 1] / count)
            if not np.isfinite(mixed).all():
                mixed = mixture(given.draws[:count])  # slower, and right where a probability is too small for a float64
            found[count] = {name: METRICS[name](mixed, given.labels) for name in BY_DRAWS}
    return found
