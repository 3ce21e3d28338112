"""IVON and IVON at the mean: variational learning of a diagonal Gaussian. Shen et al. 2024; Cong et al. 2024."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from bench.method import Method, PredictJob
from bench.options import fit_option, predict_option
from bench.posterior import DiagGaussian, Params, Posterior
from bench.registry import register_method
from bench.train.loop import FitJob
from methods.ivon.diagnostics import diagnostics, warnings
from methods.ivon.optimizer import IVON as Optimizer
from methods.ivon.state import HYPER, check_hyper


@register_method
@dataclass(frozen=True, kw_only=True)
class Ivon(Method):
    """Posterior N(m, diag v), v = 1 / (ess (h + weight_decay)); predicts with draws from N(m, tau v).

    Defaults are those of Cong et al. 2024 for ARC and OpenBookQA (PROTOCOL 4). They suit Llama-2-7B; on a small base
    watch the warnings.
    """

    name: ClassVar[str] = "ivon"
    title: ClassVar[str] = "IVON"

    lr: float = fit_option(0.03, "peak learning rate, linear to 0 without warm-up")
    ess: float = fit_option(1e6, "effective sample size lambda: larger is narrower")
    h0: float = fit_option(1e-3, "initial value of the Hessian estimate h")
    weight_decay: float = fit_option(0.0, "prior precision over ess, delta")
    beta1: float = fit_option(0.9, "decay of the gradient average")
    beta2: float = fit_option(1 - 1e-5, "decay of the Hessian estimate")
    clip_radius: float = fit_option(1e-3, "each coordinate's update is clipped to this before lr is applied, xi")
    rescale_lr: bool = fit_option(False, "multiply lr by h0 + weight_decay")
    train_draws: int = fit_option(1, "posterior draws per training step", least=1)
    draws: int = predict_option(10, "posterior draws whose probabilities are averaged", least=1)
    tau: float = predict_option(1.0, "scale of the variance: 0 is the mean, 1 the posterior", least=0)

    def __post_init__(self) -> None:
        check_hyper({name: getattr(self, name) for name in HYPER})

    def fit(self, job: FitJob) -> Posterior:
        optimizer = Optimizer(
            list(job.model.params.values()),
            lr=self.lr,
            ess=self.ess,
            h0=self.h0,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=self.weight_decay,
            clip_radius=self.clip_radius,
            rescale_lr=self.rescale_lr,
            generator=job.generator,
        )
        job.train(optimizer, perturb=optimizer.sampled, draws=self.train_draws, diagnose=lambda: diagnostics(optimizer))
        job.facts.update(diagnostics(optimizer))
        job.warnings.extend(warnings(optimizer))
        variance = dict(zip(job.model.params, optimizer.posterior_variance(), strict=True))
        return DiagGaussian(job.model.snapshot(), variance)

    def draw(self, job: PredictJob) -> Iterable[Params]:
        return job.posterior.draws(self.draws, job.generator, self.tau)


@register_method
@dataclass(frozen=True, kw_only=True)
class IvonMean(Method):
    """IVON's posterior, predicted with at its mean m: the same as IVON with tau = 0."""

    name: ClassVar[str] = "ivon_mean"
    title: ClassVar[str] = "IVON@mean"
    base: ClassVar[str | None] = "ivon"
