"""ScalaBL: Bayes by backprop on r singular values per adapter. Samplawski et al. 2025, arXiv 2506.21408.

With the SVD A_0 = U diag(s) V of an adapter's initial A (U is dropped), the update is

    B diag(s + sd * eps) V,   eps ~ N(0, I_r), one for a forward pass and adapter

B, V, log s and log sd are learned; the prior on s is N(0, prior_sd^2 I). As a posterior over A: row i is s_i V_i plus a
multiple of V_i, so the logits' covariance needs the derivative along r directions per adapter, not along r d_in.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from bench.data.batches import Batch
from bench.method import FitJob, PredictJob, Recipe, register_method
from bench.model.choice_model import ChoiceModel
from bench.options import Fit, Predict
from bench.posterior import Params, Posterior, flat_noise, sum_of_squares
from bench.train.schedules import warm_up
from methods.adamw import AdamOptions
from methods.blob.blob import Cycles, spread
from methods.blob.flipout import a_factors
from methods.blob.optimizer import AdamThenSgd, KlWeight, kl_weights
from methods.laplace.curvature import Adapted, Tape
from methods.laplace.link import LINEARISED, Linked


@dataclass(frozen=True)
class RowScale(Posterior):
    """Row i of each A is its mean plus sqrt(tau) sd_i eps_i V_i, eps_i ~ N(0, 1); all other parameters are known.

    ``location``: all parameters; ``direction`` V (r, d_in) and ``sd`` (r,) for each A.
    """

    kind = "row_scale"
    location: Params
    direction: Params
    sd: Params

    @property
    def mean(self) -> Params:
        return self.location

    @property
    def uncertain(self) -> list[str]:
        return [name for name, sd in self.sd.items() if sd.any()]

    def _draw(self, generator: torch.Generator, tau: float) -> Params:
        scales = flat_noise(self.sd, generator)
        moved = {
            name: self.location[name] + (math.sqrt(tau) * sd * scales[name]).unsqueeze(1) * self.direction[name]
            for name, sd in self.sd.items()
        }
        return {**self.location, **moved}

    def covariance(self, jacobians: Params) -> Tensor:
        columns = {name: (jacobian * self.direction[name]).sum(-1) for name, jacobian in jacobians.items()}
        return self.covariance_along(columns)

    def covariance_along(self, columns: Params) -> Tensor:
        """(B, C, C) from the derivatives (B, C, r) of the logits along V_i in row i of each A."""
        return sum_of_squares(columns, lambda name, column: column * self.sd[name])


def columns(model: Adapted, batch: Batch, direction: Params) -> tuple[dict[str, Tensor], Tensor]:
    """(name -> (B, C, r) derivatives along V_i in row i of A, (B, C) logits): C backward passes, no Jacobian of A.

    With g_t the gradient at the A map's output of token t, the derivative is sum_t g_ti (V_i . x_t).
    """
    tape = Tape(model, batch, list(direction))
    projected = {name: tape.inputs[name] @ v.T.to(tape.inputs[name].device) for name, v in direction.items()}
    found: dict[str, list[Tensor]] = {name: [] for name in direction}
    count = tape.logits.shape[1]
    for c in range(count):
        one = torch.zeros_like(tape.logits)
        one[:, c] = 1
        for name, gradient in tape.pull(one, last=c == count - 1).items():
            found[name].append((gradient * projected[name]).sum(1))
    return {name: torch.stack(each, 1) for name, each in found.items()}, tape.logits.detach()


@register_method
@dataclass(frozen=True, kw_only=True)
class Scalabl(AdamOptions, Linked):
    """q(s) = N(s, diag sd^2) on the r singular values of each adapter, B and V points; prior N(0, prior_sd^2 I).

    AdamW moves B, V, log s and log sd by the loss; SGD moves log s and log sd by the KL (methods.blob.optimizer). The
    KL and its gradients, with s and sd entry by entry and p = prior_sd:

        reverse         KL(q || p) = log(p / sd) + (sd^2 + s^2) / (2 p^2) - 1/2    d log s: s^2 / p^2
                                                                                   d log sd: sd^2 / p^2 - 1
        as_published    KL(p || q) = log(sd / p) + (p^2 + s^2) / (2 sd^2) - 1/2    d log s: s^2 / sd^2
                                                                                   d log sd: 1 - (p^2 + s^2) / sd^2

    ``as_published`` is that of the authors' code, whose minimum in sd is sqrt(p^2 + s^2): never below the prior's.
    """

    name = "scalabl"
    title = "ScalaBL"
    reads_maps = True

    lr: Annotated[float, Fit("peak learning rate of AdamW", ge=0, le=1e30)] = 1e-4
    eps: Annotated[float, Fit("added to the root of the squared-gradient average", ge=0, le=1)] = 1e-6
    kl_lr: Annotated[float, Fit("peak learning rate of SGD on the KL", ge=0, le=1e9)] = 0.2
    warmup: Annotated[float, Fit("share of the steps over which both rates rise from 0", ge=0, lt=1)] = 0.06
    prior_sd: Annotated[float, Fit("standard deviation of the prior on s", ge=1e-30, le=1e6)] = 1.0
    sd0: Annotated[float, Fit("initial sd: uniform in [sd0 / sqrt 2, sd0]", gt=0, le=10)] = 0.05
    kl: Annotated[Literal["reverse", "as_published"], Fit("KL(q || p), or KL(p || q) as in the code")] = "reverse"
    kl_weight: Annotated[KlWeight, Fit("weight of the KL: published cycles, or 1/N in every step")] = "cycle"
    gamma: Annotated[float, Fit("cycle: its length is 100 N^(pi / gamma) / batch size", gt=0, le=1e3)] = 8.0
    draws: Annotated[int, Predict("draws whose probabilities are averaged", ge=1, le=100_000)] = 10
    predictive: Annotated[
        Literal["draws", "linearised"], Predict("draws, fixed for all examples, or Gaussian logits")
    ] = "draws"
    tau: Annotated[float, Predict("scale of the variance: 0 is the mean, 1 the posterior", ge=0, le=1e4)] = 1.0

    def fit(self, job: FitJob) -> Posterior:
        model = job.model
        names = a_factors(model)
        log_s = {name: start_from_singular_vectors(model.params[name]) for name in names}
        log_sd = {name: self._initial(value, job.generator) for name, value in log_s.items()}
        weight, every = kl_weights(job, self.kl_weight, self.gamma, "kl_weight")

        def kl() -> Iterable[tuple[Tensor, Tensor]]:
            for name in names:
                pair = log_s[name], log_sd[name]
                for parameter, gradient in zip(pair, self.kl_gradients(*pair), strict=True):
                    yield parameter, weight() * gradient

        def mean() -> Params:
            scaled = {name: log_s[name].exp().unsqueeze(1) * model.params[name] for name in names}
            return {**model.params, **scaled}

        optimizer = AdamThenSgd(
            [*model.params.values(), *log_s.values(), *log_sd.values()], [], lr=self.lr, kl_lr=self.kl_lr,
            betas=(self.beta1, self.beta2), eps=self.eps, kl=kl,
        )  # fmt: skip
        cycles = Cycles(every, lambda: spread([value.exp() for value in log_sd.values()]))
        job.train(
            optimizer,
            schedule=warm_up(self.warmup),
            loss=job.loss,  # named, so that no CUDA graph replays one and the same noise
            perturb=lambda: noisy_rows(model, log_s, log_sd, job.generator),
            after_step=cycles.note,
            state={"cycles": cycles},
            mean=mean,
            diagnose=cycles.now,
        )
        with torch.no_grad():
            sd = {name: value.exp() for name, value in log_sd.items()}
            ratio = torch.cat([sd[name] / log_s[name].exp() for name in names]).median()
            job.facts.update(sd_over_s_median=float(ratio), cycle_steps=every, sd_by_cycle=cycles.rows, **cycles.now())
            direction = {name: model.params[name].detach().clone() for name in names}
            location = {name: value.detach().clone() for name, value in mean().items()}
        return RowScale(location, direction, sd)

    def _initial(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """log of uniform values in [sd0 / sqrt 2, sd0]."""
        drawn = self.sd0 * (1 - (1 - math.sqrt(0.5)) * torch.rand(like.shape, generator=generator))
        log_sd: Tensor = drawn.log().to(like.detach())
        return log_sd.requires_grad_()

    def kl_gradients(self, log_s: Tensor, log_sd: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the KL with respect to log s and log sd, entry by entry."""
        s2, sd2, p2 = (2 * log_s).exp(), (2 * log_sd).exp(), self.prior_sd**2
        if self.kl == "reverse":
            return s2 / p2, sd2 / p2 - 1
        return s2 / sd2, 1 - (p2 + s2) / sd2

    def recipe(self, posterior: Posterior) -> Recipe:
        return Recipe(otherwise="" if self.predictive == "draws" or not self.tau else LINEARISED)

    def predict(self, job: PredictJob) -> Tensor:
        if not self.recipe(job.posterior).otherwise:
            return super().predict(job)
        model, posterior = job.model, job.posterior.to(job.model.device)
        if not isinstance(posterior, RowScale):
            raise TypeError(f"{self.name} predicts with its own posterior, not with a {posterior.kind}.")

        def moments(batch: Batch) -> tuple[Tensor, Tensor]:
            found, logits = columns(model, batch, {name: posterior.direction[name] for name in posterior.uncertain})
            with torch.no_grad():
                return logits, self.tau * posterior.covariance_along(found)

        with model.assign(posterior.mean):
            return self.linked(job, moments)

    def draw(self, job: PredictJob) -> Iterable[Params]:
        return job.posterior.draws(self.draws, job.generator, self.tau)


@torch.no_grad()
def start_from_singular_vectors(a: Tensor) -> Tensor:
    """Replace A (r, d_in) by its right singular vectors V; returns log s as a new parameter (r,).

    Raises:
        ValueError: A has fewer than r singular values (r > d_in).
    """
    if a.shape[0] > a.shape[1]:
        raise ValueError(f"ScalaBL needs lora.r of at most {a.shape[1]}, the width of the narrowest layer adapted.")
    _, s, v = torch.linalg.svd(a.double().cpu(), full_matrices=False)
    a.copy_(v)
    log_s: Tensor = s.log().to(a)
    return log_s.requires_grad_()


@contextlib.contextmanager
def noisy_rows(
    model: ChoiceModel, log_s: Mapping[str, Tensor], log_sd: Mapping[str, Tensor], generator: torch.Generator
) -> Iterator[None]:
    """Inside, the A maps, which hold V, return (s + sd * eps) * (V x), with eps drawn once for each adapter."""
    noise = flat_noise(log_sd, generator)

    def rescale(name: str) -> Callable[[torch.nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output * (log_s[name].exp() + log_sd[name].exp() * noise[name])

        return hook

    handles = [model.adapters[name].linear.register_forward_hook(rescale(name)) for name in log_s]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
