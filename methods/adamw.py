"""AdamW, the point estimate that everything is compared with, and MAP. Loshchilov and Hutter 2019, arXiv 1711.05101."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.data.batches import Batch
from bench.method import Method
from bench.options import fit_option
from bench.posterior import Point, Posterior
from bench.registry import register_method
from bench.train.loop import FitJob


@dataclass(frozen=True, kw_only=True)
class AdamOptions(Method):
    """The optimizer that several methods share, and its options. Defaults: Cong et al. 2024 (PROTOCOL 1)."""

    lr: float = fit_option(5e-5, "peak learning rate, linear to 0 without warm-up", least=0)
    beta1: float = fit_option(0.9, "decay of the gradient average")
    beta2: float = fit_option(0.999, "decay of the squared-gradient average")
    eps: float = fit_option(1e-8, "added to the root of the squared-gradient average", least=0)

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{self.name}.{name} is {getattr(self, name)}: it is a decay, so give one in [0, 1).")

    def optimizer(self, job: FitJob, weight_decay: float = 0.0) -> torch.optim.AdamW:
        """AdamW over the adapters; ``weight_decay`` is decoupled from the gradient."""
        return torch.optim.AdamW(
            list(job.model.params.values()),
            lr=self.lr,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            weight_decay=weight_decay,
            foreach=True,
        )


@register_method
@dataclass(frozen=True, kw_only=True)
class AdamW(AdamOptions):
    """Minimises the mean cross-entropy; predicts at the final adapters. Defaults: Cong et al. 2024 (PROTOCOL 1)."""

    name: ClassVar[str] = "adamw"
    title: ClassVar[str] = "AdamW"

    weight_decay: float = fit_option(0.0, "decoupled weight decay", least=0)

    def fit(self, job: FitJob) -> Posterior:
        job.train(self.optimizer(job, self.weight_decay))
        return Point(job.model.snapshot())


@register_method
@dataclass(frozen=True, kw_only=True)
class Map(AdamOptions):
    """Maximum a posteriori: AdamW on the loss with a Gaussian prior N(0, prior_sd^2 I) on all adapter parameters.

    With N training examples, the objective of a step is

        mean cross-entropy of the batch + ||theta||^2 / (2 prior_sd^2 N),

    minus the log posterior over N, up to a constant. The prior is part of the loss (L2, so Adam rescales its gradient
    with the rest), not AdamW's decoupled decay, whose minimum is that of no posterior.
    """

    name: ClassVar[str] = "map"
    title: ClassVar[str] = "MAP"

    prior_sd: float = fit_option(1.0, "standard deviation of the prior on every adapter parameter")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prior_sd <= 0:
            raise ValueError(f"map.prior_sd is {self.prior_sd}: it is a standard deviation, so give more than 0.")

    def fit(self, job: FitJob) -> Posterior:
        precision = 1 / (self.prior_sd**2 * len(job.data))

        def loss(batch: Batch) -> Tensor:
            squares = torch.stack([parameter.square().sum() for parameter in job.model.params.values()])
            return job.loss(batch) + precision / 2 * squares.sum()

        job.train(self.optimizer(job), loss=loss)
        return Point(job.model.snapshot())
