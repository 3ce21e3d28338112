"""A Gaussian from AdamW's second moments, the curvature that the optimizer has anyway.

L2M (Perone et al. 2021, arXiv 2107.04695) and the memory-perturbation equation (Nickl et al. 2023, arXiv 2310.19273)
read Adam's average of squared gradients as the diagonal of a Fisher matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from bench.method import FitJob, register_method
from bench.options import Fit
from bench.posterior import DiagGaussian, Params, Posterior
from methods.adamw import AdamW
from methods.diagonal import DiagonalDraws
from methods.search import Precision


@dataclass(frozen=True)
class Moments(Posterior):
    """AdamW's final adapters ``value``, and under ``squares`` its bias-corrected average of squared gradients."""

    kind = "adam_moments"
    value: Params
    squares: Params

    @property
    def mean(self) -> Params:
        return self.value


@register_method
@dataclass(frozen=True, kw_only=True)
class AdamMoments(AdamW):
    """AdamW's training with a posterior that keeps the second moments; predicts as AdamW does.

    It is a separate training, so that AdamW's stored posteriors stay as they are. It takes over AdamW's settings and
    has the same random streams, so its adapters are AdamW's, bit for bit.
    """

    name = "adam_moments"
    title = "AdamW (moments)"
    settings_of = "adamw"

    def fit(self, job: FitJob) -> Posterior:
        optimizer = self.optimizer(job, self.weight_decay)
        job.train(optimizer)
        return Moments(job.model.snapshot(), second_moments(optimizer, job.model.params))


@torch.no_grad()
def second_moments(optimizer: torch.optim.AdamW, params: Params) -> dict[str, Tensor]:
    """name -> exp_avg_sq / (1 - beta2^t): the average of the squared gradient, 0 where there never was one."""
    beta2 = optimizer.param_groups[0]["betas"][1]
    found = {}
    for name, parameter in params.items():
        state = optimizer.state.get(parameter, {})
        if not state:
            found[name] = torch.zeros_like(parameter)
            continue
        found[name] = state["exp_avg_sq"] / (1 - beta2 ** float(state["step"]))
    return found


@register_method
@dataclass(frozen=True, kw_only=True)
class AdamPosterior(DiagonalDraws, Precision):
    """N(m, 1 / P) at AdamW's adapters m, P = N kappa v + prior_precision, v Adam's average of squared gradients.

    The gradient of a batch is a mean over B examples. Near an optimum its square averages to F / B, with F the diagonal
    Fisher information of one example, so kappa = B makes N kappa v the Fisher information of N examples.
    """

    name = "adam_posterior"
    title = "Adam posterior"
    base = "adam_moments"

    kappa: Annotated[float, Fit("examples per squared gradient; 0 is the batch size", ge=0, le=1e9)] = 0.0

    def fit(self, job: FitJob) -> Posterior:
        moments = job.starts[0]
        if not isinstance(moments, Moments):
            raise TypeError(f"{self.name} starts from AdamW's moments, not from a {moments.kind}.")
        scale = len(job.data) * (self.kappa or job.spec.train.batch_size)
        curvature = {name: scale * square for name, square in moments.squares.items()}

        def gaussian(precision: float) -> DiagGaussian:
            return DiagGaussian(moments.value, {name: 1 / (c + precision) for name, c in curvature.items()})

        flat = torch.cat([c.flatten() for c in curvature.values()])
        job.facts.update(mean_curvature=float(flat.double().mean()), kappa=scale / len(job.data))
        return gaussian(self.precision(job, gaussian))
