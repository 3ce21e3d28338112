"""AdamW: the point estimate that everything is compared with. Loshchilov and Hutter 2019, arXiv 1711.05101."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from bench.method import Method
from bench.options import fit_option
from bench.posterior import Point, Posterior
from bench.registry import register_method
from bench.train import FitJob


@register_method
@dataclass(frozen=True, kw_only=True)
class AdamW(Method):
    """Minimises the mean cross-entropy; predicts at the final adapters. Defaults: Cong et al. 2024 (PROTOCOL 1)."""

    name: ClassVar[str] = "adamw"
    title: ClassVar[str] = "AdamW"

    lr: float = fit_option(5e-5, "peak learning rate, linear to 0 without warm-up")
    weight_decay: float = fit_option(0.0, "decoupled weight decay")
    beta1: float = fit_option(0.9, "decay of the gradient average")
    beta2: float = fit_option(0.999, "decay of the squared-gradient average")
    eps: float = fit_option(1e-8, "added to the root of the squared-gradient average")

    def fit(self, job: FitJob) -> Posterior:
        optimizer = torch.optim.AdamW(
            list(job.model.params.values()),
            lr=self.lr,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            weight_decay=self.weight_decay,
            foreach=True,
        )
        job.train(optimizer)
        return Point(job.model.snapshot())
