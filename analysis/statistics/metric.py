"""How a metric is shown: title, scale, digits and which way is better. An unknown one is shown as it is."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric's display. ``better`` is 1 where higher is better, -1 where lower is, 0 where that is not known."""

    name: str
    title: str
    better: int = 0
    scale: float = 1.0
    digits: int = 3

    @property
    def heading(self) -> str:
        """The title and the direction."""
        arrow = {1: " ↑", -1: " ↓", 0: ""}[self.better]
        return f"{self.title}{arrow}"

    def show(self, value: float) -> str:
        """A value in the metric's scale and digits; never a negative zero."""
        return f"{round(value * self.scale, self.digits) + 0.0:.{self.digits}f}"


_KNOWN = (
    Metric("accuracy", "Accuracy (%)", 1, 100, 1),
    Metric("ece", "ECE × 100", -1, 100, 1),
    Metric("nll", "NLL (nats)", -1),
    Metric("brier", "Brier", -1),
    Metric("excess_nll", "NLL over Bayes-optimal (nats)", -1),
    Metric("ece_15", "ECE × 100, 15 bins", -1, 100, 1),
    Metric("ece_adaptive", "ECE × 100, equal mass", -1, 100, 1),
    Metric("ece_debiased", "ECE × 100, debiased", -1, 100, 1),
    Metric("ece_classwise", "ECE × 100, classwise", -1, 100, 1),
    Metric("mce", "MCE × 100", -1, 100, 1),
    Metric("aurc", "AURC × 100", -1, 100, 1),
    Metric("entropy", "Entropy (nats)"),
    Metric("auroc_entropy", "AUROC, entropy", 1),
    Metric("fpr95_entropy", "FPR95, entropy", -1),
    Metric("auroc_max_prob", "AUROC, max p", 1),
    Metric("fpr95_max_prob", "FPR95, max p", -1),
    Metric("auroc_mutual_information", "AUROC, MI", 1),
    Metric("fpr95_mutual_information", "FPR95, MI", -1),
)
_BY_NAME = {metric.name: metric for metric in _KNOWN}


def metric_of(name: str) -> Metric:
    """The display of a metric."""
    return _BY_NAME.get(name) or Metric(name, name)


def metric_order(name: str) -> tuple[int, str]:
    """Sorting key: the protocol's metrics in their order, then others alphabetically."""
    names = list(_BY_NAME)
    return (names.index(name) if name in _BY_NAME else len(names)), name
