"""BLoB: Bayesian low-rank adaptation by backpropagation. Wang et al. 2024, arXiv 2406.11675."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from bench.method import FitJob, PredictJob, Recipe, register_method
from bench.options import Fit, Predict
from bench.posterior import DiagGaussian, Params, Posterior
from bench.train.schedules import warm_up
from methods.adamw import AdamOptions
from methods.blob.flipout import FLIPOUT, a_factors, device_generator, flipout, flipout_log_probs
from methods.blob.optimizer import AdamThenSgd, KlWeight, kl_weights
from methods.diagonal import DiagonalDraws, Pruned

JITTER = 1e-6  # as published: added to the standard deviations in the KL's logarithm
MOST = 2**20  # entries whose quantiles are taken

Parametrisation = Literal["square", "softplus"]


@register_method
@dataclass(frozen=True, kw_only=True)
class Blob(AdamOptions, DiagonalDraws):
    """q(A) = N(M, diag sd^2) with sd = rho^2 or softplus(rho), B a point; prior A ~ N(0, prior_sd^2 I).

    The training noise is flipout's (methods.blob.flipout). AdamW moves M and B by the loss; SGD moves rho by the loss
    and the KL, and M by the KL (methods.blob.optimizer). With sd s,

        KL        = sum log(prior_sd / s) + (s^2 + M^2) / (2 prior_sd^2) - 1/2
        dKL/dM    = M / prior_sd^2
        dKL/drho  = (s / prior_sd^2 - 1 / s) ds/drho,  ds/drho = 2 rho or sigmoid(rho)

    Defaults: the published settings for Llama-2-7B.
    """

    name = "blob"
    title = "BLoB"
    reads_maps = True

    lr: Annotated[float, Fit("peak learning rate of AdamW", ge=0, le=1e30)] = 1e-4
    eps: Annotated[float, Fit("added to the root of the squared-gradient average", ge=0, le=1)] = 1e-6
    kl_lr: Annotated[float, Fit("peak learning rate of SGD, on rho and on the KL of the means", ge=0, le=1e9)] = 0.01
    warmup: Annotated[float, Fit("share of the steps over which both rates rise from 0", ge=0, lt=1)] = 0.06
    prior_sd: Annotated[float, Fit("standard deviation of the prior on A, beta", ge=1e-30, le=1e6)] = 0.2
    rho0: Annotated[float, Fit("initial sd: uniform rho in [rho0 / sqrt 2, rho0], squared", gt=0, le=10)] = 0.05
    parametrisation: Annotated[Parametrisation, Fit("sd = rho^2, or log(1 + exp rho)")] = "square"
    kl: Annotated[KlWeight, Fit("weight of the KL: published cycles, or 1/N in every step")] = "cycle"
    gamma: Annotated[float, Fit("cycle: its length is 100 N^(pi / gamma) / batch size", gt=0, le=1e3)] = 8.0
    draws: Annotated[int, Predict("draws whose probabilities are averaged; 0: the mean", ge=0, le=100_000)] = 10
    predictive: Annotated[
        Literal["weights", "flipout"],
        Predict("draws of A, fixed for all examples, or independent noise per token"),
    ] = "weights"

    def fit(self, job: FitJob) -> Posterior:
        model = job.model
        means = {name: model.params[name] for name in a_factors(model)}
        rho = {name: self.initial_rho(mean, job.generator) for name, mean in means.items()}
        weight, every = kl_weights(job, self.kl, self.gamma, "kl")

        def kl() -> Iterable[tuple[Tensor, Tensor]]:
            for name, mean in means.items():
                for parameter, gradient in zip((mean, rho[name]), self.kl_gradients(mean, rho[name]), strict=True):
                    yield parameter, weight() * gradient

        optimizer = AdamThenSgd(
            list(model.params.values()), list(rho.values()), lr=self.lr, kl_lr=self.kl_lr,
            betas=(self.beta1, self.beta2), eps=self.eps, kl=kl,
        )  # fmt: skip
        cycles = Cycles(every, lambda: spread([self.sd(r) for r in rho.values()]))
        job.train(
            optimizer,
            schedule=warm_up(self.warmup),
            loss=job.loss,  # named, so that no CUDA graph replays one and the same noise
            perturb=lambda: flipout(
                model, rho, lambda name: self.sd(rho[name]), device_generator(job.generator, model.device)
            ),
            after_step=cycles.note,
            state={"cycles": cycles},
            diagnose=cycles.now,
        )
        with torch.no_grad():
            sds = {name: self.sd(r).detach() for name, r in rho.items()}
            divergence = sum(float(kl_divergence(mean, sds[name], self.prior_sd)) for name, mean in means.items())
        job.facts.update(kl_divergence=divergence, cycle_steps=every, sd_by_cycle=cycles.rows, **cycles.now())
        return DiagGaussian(model.snapshot(), {name: sd.square() for name, sd in sds.items()})

    def initial_rho(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """rho with sd in [rho0^2 / 2, rho0^2], whichever the parametrisation."""
        drawn = self.rho0 * (1 - (1 - math.sqrt(0.5)) * torch.rand(like.shape, generator=generator))
        if self.parametrisation == "softplus":
            drawn = drawn.square().expm1().log()
        return drawn.to(like).requires_grad_()

    def sd(self, rho: Tensor) -> Tensor:
        """The standard deviations at ``rho``."""
        return rho.square() if self.parametrisation == "square" else softplus(rho)

    def kl_gradients(self, mean: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the KL with respect to the mean and to rho, entry by entry."""
        sd = self.sd(rho)
        slope = 2 * rho if self.parametrisation == "square" else rho.sigmoid()
        return mean / self.prior_sd**2, (sd / self.prior_sd**2 - 1 / (sd + JITTER)) * slope

    def recipe(self, posterior: Posterior) -> Recipe:
        return Recipe(otherwise="" if self.predictive == "weights" or not self.draws or not self.tau else FLIPOUT)

    def predict(self, job: PredictJob) -> Tensor:
        if not self.recipe(job.posterior).otherwise:
            return super().predict(job)
        return flipout_log_probs(job, self.narrowed(job.posterior), self.draws, self.tau)

    def draw(self, job: PredictJob) -> Iterable[Params]:
        return super().draw(job) if self.draws else [self.narrowed(job.posterior).mean]


@register_method
@dataclass(frozen=True, kw_only=True)
class BlobMean(Pruned):
    """BLoB's posterior, predicted with at its mean (published as N = 0): the same as BLoB with ``draws`` = 0."""

    name = "blob_mean"
    title = "BLoB (mean)"
    base = "blob"

    def draw(self, job: PredictJob) -> Iterable[Params]:
        return [self.narrowed(job.posterior).mean]


def kl_divergence(mean: Tensor, sd: Tensor, prior_sd: float) -> Tensor:
    """KL(N(mean, sd^2) || N(0, prior_sd^2)) in nats, summed over all entries in float64."""
    mean, sd = mean.double(), sd.double()
    logs = math.log(prior_sd) - (sd + JITTER).log()
    return (logs + (sd.square() + mean.square()) / (2 * prior_sd**2) - 0.5).sum()


@torch.no_grad()
def spread(sds: Iterable[Tensor]) -> dict[str, float]:
    """The 5 %, 50 % and 95 % quantiles of standard deviations, over at most ``MOST`` evenly spaced entries."""
    values = torch.cat([sd.detach().flatten() for sd in sds])
    values = values[:: -(-len(values) // MOST)].double()
    low, median, high = values.quantile(values.new_tensor([0.05, 0.5, 0.95])).tolist()
    return {"sd_p05": low, "sd_median": median, "sd_p95": high}


class Cycles:
    """The quantiles of the standard deviations at the end of each cycle of KL weights; survives a kill."""

    def __init__(self, every: int, now: Callable[[], dict[str, float]]) -> None:
        self.every, self.now = every, now
        self.rows: list[Mapping[str, float]] = []

    def note(self, done: int) -> None:
        """After ``done`` steps."""
        if done % self.every == 0:
            self.rows.append({"step": done, **self.now()})

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state: Any) -> None:
        self.rows = list(state["rows"])
