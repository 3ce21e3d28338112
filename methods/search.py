"""Scales that the tuning examples choose: the widest Gaussian that they allow, and the prior precision they prefer.

The widest Gaussian is the search that TFB and the isotropic baseline share (Shi et al. 2024, arXiv 2412.05723). Of the
family N(m, sd^2 Sigma), with ``unit`` the Gaussian at sd = 1, it takes the largest sd in a range at which the loss of
the tuning examples rises by no more than epsilon above that of the mean m. All candidates are judged by the same
standard normals, so the rise is a smooth function of sd.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from bench.data.batches import Encoded
from bench.method import FitJob, Method
from bench.options import Fit
from bench.posterior import Params, Posterior

BATCH = 32  # examples per forward pass over the tuning data


class Found(NamedTuple):
    """Where a search ended.

    ``value`` is the largest one found that is allowed, or the smallest of the range where none is. ``end`` names the
    end of the range that bound the search, if one did.
    """

    value: float
    evaluations: int
    end: Literal["", "smallest", "largest"]


def largest_allowed(allowed: Callable[[float], bool], smallest: float, largest: float, width: float) -> Found:
    """The largest value in [smallest, largest] that is ``allowed``, by bisection of its logarithm.

    The ends are judged first. The search stops when what is allowed and what is not are a factor of 1 + ``width``
    apart, and returns the former. It presumes that whatever lies below an allowed value is allowed.
    """
    if allowed(largest):
        return Found(largest, 1, "largest")
    if not allowed(smallest):
        return Found(smallest, 2, "smallest")
    low, high, evaluations = smallest, largest, 2
    while high > low * (1 + width):
        middle = math.sqrt(low * high)
        evaluations += 1
        if allowed(middle):
            low = middle
        else:
            high = middle
    return Found(low, evaluations, "")


def anchors(job: FitJob, count: int) -> Encoded:
    """The tuning examples, or ``count`` of them at random where there are more (0: all)."""
    data = job.tuning
    if not 0 < count < len(data):
        return data
    rows = torch.randperm(len(data), generator=job.generator)[:count].sort().values.tolist()
    return dataclasses.replace(
        data, tokens=tuple(data.tokens[row] for row in rows), examples=tuple(data.examples[row] for row in rows)
    )


@torch.no_grad()
def tuning_log_probs(job: FitJob, params: Params, data: Encoded) -> Tensor:
    """(N, C) float64 log-probabilities of ``data``, in the order of :func:`tuning_labels`, on the CPU."""
    with job.model.assign(params):
        return torch.cat([job.model.logits(b).double().log_softmax(-1).cpu() for _, b in data.in_order(BATCH)])


def tuning_labels(data: Encoded) -> Tensor:
    """(N,) labels of ``data``."""
    return torch.cat([batch.labels.cpu() for _, batch in data.in_order(BATCH)])


@dataclass(frozen=True, kw_only=True)
class Widest(Method):
    """The options of a method that takes the largest allowed sd of a Gaussian around a mean. It tunes.

    Defaults are those of TFB: a relative rise of 0.3 %, judged with 10 draws.
    """

    tunes = True

    smallest: Annotated[float, Fit("smallest sd that the search considers", ge=1e-30, le=1e6)] = 1e-4
    largest: Annotated[float, Fit("largest sd that the search considers", ge=1e-30, le=1e6)] = 1.0
    epsilon: Annotated[float, Fit("largest rise of the tuning loss, in units of `rise`", ge=0, le=1e3)] = 0.003
    rise: Annotated[
        Literal["relative", "change", "nats", "accuracy"],
        Fit("what is bounded: the NLL's relative rise, its relative change, its rise in nats, or the fall in accuracy"),
    ] = "relative"
    judged: Annotated[
        Literal["draws", "mixture"], Fit("the loss of the draws on average, or that of their averaged probabilities")
    ] = "draws"
    search_draws: Annotated[int, Fit("draws that judge each sd, the same for all", ge=1, le=100_000)] = 10
    anchors: Annotated[
        int, Fit("largest number of tuning examples that judge each sd, drawn at random; 0: all", ge=0, since="0.2")
    ] = 500
    width: Annotated[float, Fit("relative width of the bracket at which the search stops", ge=1e-9, le=10)] = 0.05

    def __post_init__(self) -> None:
        if self.smallest >= self.largest:
            raise ValueError(
                f"{self.name}.smallest is {self.smallest:g} and {self.name}.largest {self.largest:g}: the range is "
                "empty, so give a smallest below the largest."
            )

    def widest(self, job: FitJob, unit: Posterior) -> float:
        """The sd by which to scale ``unit``; stores how it was found, and warns where the range bound the search."""
        seed = int(torch.randint(2**62, (), generator=job.generator))
        data = anchors(job, self.anchors)
        labels = tuning_labels(data)
        base = self._loss(tuning_log_probs(job, unit.mean, data).unsqueeze(0), labels)
        limit = self.epsilon * (base if self.rise in ("relative", "change") else 1.0)
        rises: dict[float, float] = {}

        def allowed(sd: float) -> bool:
            drawn = unit.draws(self.search_draws, torch.Generator().manual_seed(seed), sd**2)
            log_probs = torch.stack([tuning_log_probs(job, params, data) for params in drawn])
            rises[sd] = self._loss(log_probs, labels) - base
            rise = abs(rises[sd]) if self.rise == "change" else rises[sd]
            return rise <= limit  # False for NaN: a draw that overflows is too wide

        found = largest_allowed(allowed, self.smallest, self.largest, self.width)
        job.facts.update(
            sd=found.value,
            tuning_loss=base,
            tuning_rise=rises[found.value],
            tuning_examples=len(labels),
            search_evaluations=found.evaluations,
        )
        if found.end == "largest":
            job.warnings.append(
                f"The largest sd of the range, {self.largest:g}, raises the tuning loss by only "
                f"{rises[self.largest]:.3g} of the allowed {limit:.3g}: raise {self.name}.largest."
            )
        if found.end == "smallest":
            job.warnings.append(
                f"Even the smallest sd of the range, {self.smallest:g}, raises the tuning loss by "
                f"{rises[self.smallest]:.3g}, more than the allowed {limit:.3g}: lower {self.name}.smallest, or raise "
                f"{self.name}.epsilon."
            )
        return found.value

    def _loss(self, log_probs: Tensor, labels: Tensor) -> float:
        """The loss of (S, N, C) log-probabilities: NLL in nats, or the share of wrong answers."""
        if self.judged == "mixture":
            log_probs = (log_probs.logsumexp(0) - math.log(len(log_probs))).unsqueeze(0)
        if self.rise == "accuracy":
            return float((log_probs.argmax(-1) != labels).double().mean())
        rows = labels.expand(len(log_probs), -1).unsqueeze(-1)
        return float(-log_probs.gather(-1, rows).mean())


@dataclass(frozen=True, kw_only=True)
class Precision(Method):
    """The options of a method that takes the prior precision with the least NLL on the tuning examples. It tunes."""

    tunes = True

    prior_precision: Annotated[float, Fit("prior precision; 0 takes the best of the grid", ge=0, le=1e15)] = 0.0
    lowest: Annotated[float, Fit("smallest prior precision of the grid", ge=1e-30, le=1e15)] = 1e-3
    highest: Annotated[float, Fit("largest prior precision of the grid", ge=1e-30, le=1e15)] = 1e9
    points: Annotated[int, Fit("precisions in the grid, evenly spaced in their logarithm", ge=2, le=1000)] = 13
    search_draws: Annotated[int, Fit("draws that judge each precision, the same for all", ge=1, le=100_000)] = 10

    def __post_init__(self) -> None:
        if self.lowest >= self.highest:
            raise ValueError(
                f"{self.name}.lowest is {self.lowest:g} and {self.name}.highest {self.highest:g}: the grid is empty, "
                "so give a lowest below the highest."
            )

    def precision(self, job: FitJob, gaussian: Callable[[float], Posterior]) -> float:
        """The prior precision by which ``gaussian`` predicts best: the NLL of the averaged probabilities decides."""
        if self.prior_precision:
            job.facts.update(prior_precision=self.prior_precision)
            return self.prior_precision
        data = job.tuning
        labels = tuning_labels(data)
        seed = int(torch.randint(2**62, (), generator=job.generator))
        step = math.log(self.highest / self.lowest) / (self.points - 1)
        losses: dict[float, float] = {}
        for number in range(self.points):
            value = math.exp(math.log(self.lowest) + number * step)
            draws = gaussian(value).draws(self.search_draws, torch.Generator().manual_seed(seed))
            loss = mixture_nll(torch.stack([tuning_log_probs(job, params, data) for params in draws]), labels)
            losses[value] = loss if math.isfinite(loss) else math.inf
        best = min(losses, key=losses.__getitem__)
        job.facts.update(prior_precision=best, tuning_loss=losses[best], tuning_examples=len(labels))
        for end, (name, opposite) in {min(losses): ("lowest", "lower"), max(losses): ("highest", "raise")}.items():
            if best == end:
                job.warnings.append(
                    f"The prior precision with the least tuning loss is the {name} of the grid, {end:g}: {opposite} "
                    f"{self.name}.{name}."
                )
        return best


def mixture_nll(log_probs: Tensor, labels: Tensor) -> float:
    """Mean NLL of (N,) labels under the average of (S, N, C) probabilities, in nats."""
    mixed = log_probs.logsumexp(0) - math.log(len(log_probs))
    return float(-mixed.gather(-1, labels.unsqueeze(-1)).mean())


def scaled(unit: Params, factor: float) -> dict[str, Tensor]:
    """Variances times ``factor``."""
    return {name: value * factor for name, value in unit.items()}
