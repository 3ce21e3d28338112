"""Mean and spread over seeds."""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Summary:
    """mean = sum x / n;  sd = sqrt(sum (x - mean)^2 / (n - 1));  sem = sd / sqrt(n). One value has no spread."""

    mean: float
    sd: float | None
    sem: float | None
    n: int


def summarize(values: Sequence[float]) -> Summary:
    """The summary of at least one finite value."""
    return _summary(tuple(values))


@functools.lru_cache(maxsize=100_000)  # many tables and figures show the same numbers, and exact sums take their time
def _summary(values: tuple[float, ...]) -> Summary:
    n = len(values)
    sd = statistics.stdev(values) if n > 1 else None
    return Summary(statistics.fmean(values), sd, None if sd is None else sd / math.sqrt(n), n)
