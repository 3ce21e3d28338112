"""Every metric that a table may show, by name: those of the protocol, then those recomputed from predictions."""

from __future__ import annotations

from analysis.statistics.detection import DETECTION
from analysis.statistics.quality import QUALITY
from bench.metrics import EXCESS_NLL, METRICS, Metric


def _known() -> dict[str, Metric]:
    further = (EXCESS_NLL, *(quality.metric for quality in QUALITY.values()), *DETECTION)
    return {**METRICS, **{metric.name: metric for metric in further}}


def metric_of(name: str) -> Metric:
    """A metric by name; one that no table knows is shown as it is, without a winner."""
    return _known().get(name) or Metric(name, name)


def metric_order(name: str) -> tuple[int, str]:
    """Sorting key: the protocol's metrics in their order, then those recomputed, then others alphabetically."""
    names = list(_known())
    return (names.index(name) if name in names else len(names)), name
