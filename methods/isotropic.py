"""Isotropic noise around AdamW's adapters: the baseline for every posterior that shapes its variance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch

from bench.method import FitJob, PredictJob, register_method
from bench.options import Predict
from bench.posterior import DiagGaussian, Params, Posterior
from methods.search import Widest, scaled


@register_method
@dataclass(frozen=True, kw_only=True)
class Isotropic(Widest):
    """N(m, sd^2 I) at AdamW's adapters m, with the largest sd whose tuning loss is within epsilon of AdamW's.

    The sd is chosen as TFB chooses its own (methods/search.py), so a difference between the two is one of shape.
    """

    name = "isotropic"
    title = "Isotropic"
    base = "adamw"

    draws: Annotated[int, Predict("posterior draws whose probabilities are averaged", ge=1, le=100_000)] = 10
    tau: Annotated[float, Predict("scale of the variance: 0 is AdamW, 1 the posterior", ge=0, le=1e4)] = 1.0

    def fit(self, job: FitJob) -> Posterior:
        mean = job.starts[0].mean
        unit = {name: torch.ones_like(value) for name, value in mean.items()}
        sd = self.widest(job, DiagGaussian(mean, unit))
        return DiagGaussian(mean, scaled(unit, sd**2))

    def draw(self, job: PredictJob) -> Iterable[Params]:
        return job.posterior.draws(self.draws, job.generator, self.tau)
