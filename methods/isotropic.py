"""Isotropic noise around AdamW's adapters: the baseline for every posterior that shapes its variance."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bench.method import FitJob, register_method
from bench.posterior import DiagGaussian, Posterior
from methods.diagonal import DiagonalDraws
from methods.search import Widest, scaled


@register_method
@dataclass(frozen=True, kw_only=True)
class Isotropic(DiagonalDraws, Widest):
    """N(m, sd^2 I) at AdamW's adapters m, with the largest sd whose tuning loss is within epsilon of AdamW's.

    The sd is chosen as TFB chooses its own (methods/search.py), so a difference between the two is one of shape.
    """

    name = "isotropic"
    title = "Isotropic"
    base = "adamw"

    def fit(self, job: FitJob) -> Posterior:
        mean = job.starts[0].mean
        unit = {name: torch.ones_like(value) for name, value in mean.items()}
        sd = self.widest(job, DiagGaussian(mean, unit))
        return DiagGaussian(mean, scaled(unit, sd**2))
