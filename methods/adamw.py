"""AdamW, the point estimate that everything is compared with, and MAP. Loshchilov and Hutter 2019, arXiv 1711.05101."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from bench.data.batches import Batch
from bench.method import FitJob, Method, register_method
from bench.model.adapters import MAGNITUDE
from bench.options import Fit
from bench.posterior import Point, Posterior


@dataclass(frozen=True, kw_only=True)
class AdamOptions(Method):
    """The optimizer that several methods share, and its options. Defaults: Cong et al. 2024 (PROTOCOL 1)."""

    lr: Annotated[float, Fit("peak learning rate, linear to 0 without warm-up", ge=0, le=1e30)] = 5e-5
    beta1: Annotated[float, Fit("decay of the gradient average")] = 0.9
    beta2: Annotated[float, Fit("decay of the squared-gradient average")] = 0.999
    eps: Annotated[float, Fit("added to the root of the squared-gradient average", ge=0, le=1)] = 1e-8

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

    name = "adamw"
    title = "AdamW"

    weight_decay: Annotated[float, Fit("decoupled weight decay", ge=0, le=1e6)] = 0.0

    def fit(self, job: FitJob) -> Posterior:
        job.train(self.optimizer(job, self.weight_decay))
        return Point(job.model.snapshot())


@register_method
@dataclass(frozen=True, kw_only=True)
class Map(AdamOptions):
    """Maximum a posteriori: AdamW on the loss with a Gaussian prior N(0, prior_sd^2 I) on all entries of A and B.

    With N training examples, the objective of a step is

        mean cross-entropy of the batch + ||theta||^2 / (2 prior_sd^2 N),

    minus the log posterior over N, up to a constant. The prior is part of the loss (L2, so Adam rescales its gradient
    with the rest), not AdamW's decoupled decay, whose minimum is that of no posterior. DoRA's magnitudes have no prior:
    they start at the norms of the base's weights, not at 0.
    """

    name = "map"
    title = "MAP"

    prior_sd: Annotated[float, Fit("standard deviation of the prior on A and B", ge=1e-30, le=1e6)] = 1.0

    def fit(self, job: FitJob) -> Posterior:
        precision = 1 / (self.prior_sd**2 * len(job.data))

        def loss(batch: Batch) -> Tensor:
            squares = torch.stack(
                [value.square().sum() for name, value in job.model.params.items() if MAGNITUDE not in name]
            )
            return job.loss(batch) + precision / 2 * squares.sum()

        job.train(self.optimizer(job), loss=loss)
        return Point(job.model.snapshot())
