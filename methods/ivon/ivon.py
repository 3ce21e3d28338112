"""IVON and IVON at the mean: variational learning of a diagonal Gaussian. Shen et al. 2024; Cong et al. 2024."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from bench.method import FitJob, PredictJob, register_method
from bench.options import Fit
from bench.posterior import DiagGaussian, Params, Posterior
from bench.specs import TrainSpec
from bench.task import Task
from methods.diagonal import DiagonalDraws, Pruned
from methods.ivon.adaptive import AdaptivePrior
from methods.ivon.diagnostics import diagnostics, warnings
from methods.ivon.optimizer import IVON as Optimizer
from methods.ivon.state import HYPER, check_hyper


@register_method
@dataclass(frozen=True, kw_only=True)
class Ivon(DiagonalDraws):
    """Posterior N(m, diag v), v = 1 / (ess (h + weight_decay)); predicts with draws from N(m, tau v).

    Defaults are those of Cong et al. 2024 for ARC and OpenBookQA (PROTOCOL 4). They suit Llama-2-7B; on a small base
    watch the warnings.
    """

    name = "ivon"
    title = "IVON"

    lr: Annotated[float, Fit("peak learning rate, linear to 0 without warm-up", le=1e30)] = 0.03
    ess: Annotated[float, Fit("effective sample size lambda: larger is narrower", le=1e15)] = 1e6
    h0: Annotated[float, Fit("initial value of the Hessian estimate h", le=1e9)] = 1e-3
    weight_decay: Annotated[float, Fit("prior precision over ess, delta", le=1e6)] = 0.0
    beta1: Annotated[float, Fit("decay of the gradient average")] = 0.9
    beta2: Annotated[float, Fit("decay of the Hessian estimate")] = 1 - 1e-5
    clip_radius: Annotated[float, Fit("each coordinate's update is clipped to this before lr is applied, xi")] = 1e-3
    rescale_lr: Annotated[bool, Fit("multiply lr by h0 + weight_decay")] = False
    train_draws: Annotated[int, Fit("posterior draws per training step", ge=1, le=1000)] = 1

    gamma: Annotated[
        float,
        Fit("effective sample size over the root of the number of examples; 0 takes ess", ge=0, le=1e12, since="0.2"),
    ] = 0.0
    prior: Annotated[
        Literal["fixed", "adaptive"], Fit("weight_decay for all, or a precision per matrix that follows q", since="0.2")
    ] = "fixed"
    smallest_prior_sd: Annotated[
        float, Fit("adaptive: least standard deviation of a matrix's prior", gt=0, le=1e6, since="0.2")
    ] = 0.01

    def __post_init__(self) -> None:
        check_hyper({name: getattr(self, name) for name in HYPER})

    def check(self, task: Task, train: TrainSpec) -> None:
        super().check(task, train)
        if self.gamma and self.ess != type(self).ess:
            raise ValueError(
                f"{self.name}.ess is {self.ess:g} and {self.name}.gamma {self.gamma:g}, which stands in for ess: leave "
                f"out {self.name}.ess (or set {self.name}.ess={type(self).ess:g}, its default), or set "
                f"{self.name}.gamma=0."
            )

    def fit(self, job: FitJob) -> Posterior:
        adaptive = self.prior == "adaptive"
        matrices = list(job.model.params.values())
        optimizer = Optimizer(
            [{"params": [matrix]} for matrix in matrices] if adaptive else matrices,
            lr=self.lr,
            ess=self.gamma * math.sqrt(len(job.data)) if self.gamma else self.ess,
            h0=self.h0,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=self.weight_decay,
            clip_radius=self.clip_radius,
            rescale_lr=self.rescale_lr,
            shrink_mean=not adaptive,
            generator=job.device_generator,
        )
        follow = AdaptivePrior(optimizer, self.smallest_prior_sd) if adaptive else None
        if follow is not None:
            follow.update()
        job.train(
            optimizer,
            perturb=optimizer.sampled,
            draws=self.train_draws,
            after_step=None if follow is None else lambda done: follow.update(),
            diagnose=lambda: diagnostics(optimizer),
        )
        job.facts.update(diagnostics(optimizer))
        job.warnings.extend(warnings(optimizer))
        if follow is not None:
            sds = follow.sds()
            job.facts.update(ess=optimizer.param_groups[0]["ess"], min_prior_sd=min(sds), max_prior_sd=max(sds))
        variance = dict(zip(job.model.params, optimizer.posterior_variance(), strict=True))
        return DiagGaussian(job.model.snapshot(), variance)


@register_method
@dataclass(frozen=True, kw_only=True)
class IvonMean(Pruned):
    """IVON's posterior, predicted with at its mean m: the same as IVON with tau = 0."""

    name = "ivon_mean"
    title = "IVON (mean)"
    base = "ivon"

    def draw(self, job: PredictJob) -> Iterable[Params]:
        return [self.narrowed(job.posterior).mean]


@register_method
@dataclass(frozen=True, kw_only=True)
class Ivon2(Ivon):
    """IVON with lambda = gamma sqrt(N) and a prior precision per matrix that follows the posterior.

    Cong et al. 2025, arXiv 2506.14280 (methods/ivon/adaptive.py); gamma = 5000 is theirs.
    """

    name = "ivon2"
    title = "IVON-2"

    gamma: Annotated[float, Fit("effective sample size over sqrt(N), N examples; 0 takes ess", ge=0, le=1e12)] = 5000.0
    prior: Annotated[
        Literal["fixed", "adaptive"], Fit("weight_decay for all, or a precision per matrix that follows q")
    ] = "adaptive"
    smallest_prior_sd: Annotated[float, Fit("least standard deviation of a matrix's prior", gt=0, le=1e6)] = 0.01
