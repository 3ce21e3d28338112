"""Temperature scaling: AdamW's logits over one scalar. Guo et al. 2017, arXiv 1706.04599."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bench.method import FitJob, Method, PredictJob, Recipe, log_softmax, register_method
from bench.posterior import Params, Posterior

LARGEST = 20.0  # T is sought between 1 / LARGEST and LARGEST
BATCH = 32  # examples per forward pass over the tuning data


@dataclass(frozen=True)
class ScaledPoint(Posterior):
    """One value of the adapters, and under ``scale`` the temperature T over which its logits are taken."""

    kind = "scaled_point"
    value: Params
    scale: Params

    @property
    def mean(self) -> Params:
        return self.value

    @property
    def temperature(self) -> float:
        """T."""
        return float(self.scale["temperature"])


@register_method
@dataclass(frozen=True, kw_only=True)
class Temperature(Method):
    """softmax(logits / T) at AdamW's adapters, with the T that minimises the NLL of the tuning examples.

    These are what the protocol leaves for tuning: validation, or the part of train that is set aside. Where it leaves
    nothing (``paper``), T is fitted on 10 % of train, and the base is a separate AdamW fit on the other 90 %, whose
    cost counts. When `bench tune` scores a part of train, T is fitted on another.
    """

    name = "temperature"
    title = "Temperature"
    base = "adamw"
    tunes = True

    @torch.no_grad()
    def fit(self, job: FitJob) -> Posterior:
        value = job.starts[0].mean
        with job.model.assign(value):
            pairs = [(job.model.logits(batch), batch.labels) for _, batch in job.tuning.in_order(BATCH)]
        logits, labels = (torch.cat(parts).cpu() for parts in zip(*pairs, strict=True))
        found = best_temperature(logits, labels)
        job.facts.update(temperature=found, tuning_examples=len(labels))
        if problem := no_minimum(found, logits, labels):
            job.warnings.append(f"The temperature {found:.3g} means little: {problem}.")
        return ScaledPoint(value, {"temperature": torch.tensor(found, dtype=torch.float64)})

    def recipe(self, posterior: Posterior) -> Recipe:
        return Recipe(temperature=self._own(posterior).temperature)

    def predict(self, job: PredictJob) -> Tensor:
        posterior = self._own(job.posterior)
        return log_softmax(job.log_probs(posterior.mean).double() / posterior.temperature).unsqueeze(0)

    def _own(self, posterior: Posterior) -> ScaledPoint:
        if not isinstance(posterior, ScaledPoint):
            raise TypeError(f"{self.name} predicts with its own posterior, not with a {posterior.kind}.")
        return posterior


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T in [1 / LARGEST, LARGEST] with the least NLL of ``labels`` (N,) under softmax(``logits`` (N, C) / T).

    The NLL is convex in 1 / T, so it has one minimum in log T too, and a bounded scalar search finds it.
    """
    from scipy.optimize import minimize_scalar  # slow to import, and planning imports every method

    exact = logits.double()
    bound = math.log(LARGEST)
    found = minimize_scalar(
        lambda log_t: float(cross_entropy(exact / math.exp(log_t), labels)),
        bounds=(-bound, bound),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return math.exp(float(found.x))


def no_minimum(temperature: float, logits: Tensor, labels: Tensor) -> str:
    """The reason why the NLL of (N,) ``labels`` has no minimum in T near ``temperature``; "" if it has one."""
    if bool((logits.argmax(-1) == labels).all()):
        return f"the adapters answer all {len(labels)} tuning examples correctly, so the NLL keeps falling as T does"
    if temperature < 1.01 / LARGEST:
        return f"the NLL of the {len(labels)} tuning examples keeps falling below the smallest T, 1/{LARGEST:g}"
    if temperature > LARGEST / 1.01:
        return (
            f"the NLL of the {len(labels)} tuning examples keeps falling beyond the largest T, {LARGEST:g}: the "
            "adapters answer no better than chance"
        )
    return ""
