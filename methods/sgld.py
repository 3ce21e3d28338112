"""Stochastic gradient Langevin dynamics: samples of the posterior, taken while training. Three variants.

Welling and Teh 2011; cyclical: Zhang et al. 2020, arXiv 1902.03932; preconditioned: Li et al. 2016, arXiv 1512.07666.
With g the gradient of the batch's mean loss, N examples, the prior N(0, prior_sd^2 I) on A and B (none on DoRA's
magnitudes, the norms of weights) and a temperature T, a step is

    theta <- theta - lr P (g + theta / (prior_sd^2 N)) + N(0, 2 lr P T / N),

whose stationary density is the posterior to the power 1 / T as lr goes to 0; P = 1, or P = 1 / (eps + sqrt(v)) with v a
running average of g^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from bench.method import FitJob, Method, PredictJob, register_method
from bench.model.adapters import MAGNITUDE
from bench.options import Fit
from bench.posterior import Members, Params, Posterior
from bench.specs import TrainSpec
from bench.task import Task
from bench.train.checkpoint import Snapshots
from bench.train.schedules import constant


class Langevin(torch.optim.Optimizer):
    """The step of the module's docstring.

    Args:
        params: the parameters.
        lr: step size.
        precision: of the prior, over N.
        variance: T / N of this step; 0 is gradient descent.
        generator: source of the noise.
        decay: of v; None for P = 1.
        eps: added to the root of v.
        free: parameters without a prior.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        *,
        precision: float,
        variance: Callable[[], float],
        generator: torch.Generator,
        decay: float | None = None,
        eps: float = 1e-5,
        free: Iterable[Tensor] = (),
    ) -> None:
        super().__init__(list(params), {"lr": lr})
        self._free = {id(parameter) for parameter in free}
        self._precision, self._variance, self._generator = precision, variance, generator
        self._decay, self._eps = decay, eps

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        variance = self._variance()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                scale: Tensor | float = group["lr"]
                if self._decay is not None:
                    scale = group["lr"] / (self._eps + self._second_moment(parameter).sqrt())
                precision = 0.0 if id(parameter) in self._free else self._precision
                drift = parameter.grad + precision * parameter
                parameter.sub_(scale * drift)
                if variance:
                    source = self._generator
                    noise = torch.randn(parameter.shape, generator=source, device=source.device).to(parameter)
                    parameter.add_(noise * (2 * variance * scale) ** 0.5)

    def _second_moment(self, parameter: Tensor) -> Tensor:
        assert self._decay is not None
        state, square = self.state[parameter], parameter.grad.square()  # type: ignore[union-attr]
        if "square" not in state:
            state["square"] = square
        else:
            state["square"] = self._decay * state["square"] + (1 - self._decay) * square
        moment: Tensor = state["square"]
        return moment


@dataclass(frozen=True, kw_only=True)
class Sampler(Method):
    """The options that all variants share. The steps fall into cycles, of which the last part collects samples."""

    lr: Annotated[float, Fit("step size; of cSGLD that at the start of each cycle", gt=0, le=1e30)] = 1e-2
    temperature: Annotated[float, Fit("T: 1 samples the posterior, T < 1 a colder one", ge=0, le=1e9)] = 1.0
    prior_sd: Annotated[float, Fit("standard deviation of the prior on A and B", ge=1e-30, le=1e6)] = 1.0
    samples: Annotated[int, Fit("samples to collect, evenly spaced; all cycles together", ge=2, le=100_000)] = 20
    burn_in: Annotated[float, Fit("share of a cycle before its first sample", ge=0, lt=1)] = 0.5

    @property
    def rounds(self) -> int:
        """The number of cycles."""
        return 1

    def sample_steps(self, steps: int) -> list[int]:
        """The numbers of steps done after which a training of ``steps`` takes a sample."""
        length = steps / self.rounds
        each = max(1, self.samples // self.rounds)
        found = set()
        for cycle in range(self.rounds):
            start = (cycle + self.burn_in) * length
            ends = (start + (k + 1) * (1 - self.burn_in) * length / each for k in range(each))
            found |= {round(end) for end in ends if round(end) > round(start) and self.noisy((round(end) - 1) / steps)}
        return sorted(found)

    def check(self, task: Task, train: TrainSpec) -> None:
        count = len(self.sample_steps(train.steps))
        if count < 2:
            raise ValueError(
                f"{self.name} collects {count} sample{'' if count == 1 else 's'} in {train.steps} steps, and a "
                f"posterior needs 2: raise steps, or lower {self.name}.burn_in."
            )

    def schedule(self, progress: float) -> float:
        """Step size over ``lr`` at ``progress`` = t/T."""
        return constant(progress)

    def noisy(self, progress: float) -> bool:
        """Whether a step at ``progress`` has noise."""
        return True

    def optimizer(self, job: FitJob, **options: Any) -> Langevin:
        """The step of this variant over the adapters."""
        steps, count = job.spec.train.steps, len(job.data)
        return Langevin(
            job.model.params.values(),
            self.lr,
            precision=1 / (self.prior_sd**2 * count),
            variance=lambda: self.temperature / count if self.noisy(job.step / steps) else 0.0,
            generator=job.device_generator,
            free=[value for name, value in job.model.params.items() if MAGNITUDE in name],
            **options,
        )

    def fit(self, job: FitJob) -> Posterior:
        samples, due = Snapshots(), set(self.sample_steps(job.spec.train.steps))

        def after_step(done: int) -> None:
            if done in due:
                samples.add(job.model.params)

        job.train(self.optimizer(job), schedule=self.schedule, after_step=after_step, state={"samples": samples})
        found = Members.of(samples.values)
        spread = torch.cat([stack.var(0, correction=0).flatten() for stack in found.values.values()])
        job.facts.update(samples=len(found), temperature=self.temperature, mean_sd=float(spread.mean().sqrt()))
        if len(found) < self.samples:
            job.warnings.append(
                f"{job.spec.train.steps} steps are too few for {self.name}.samples={self.samples}: the posterior has "
                f"{len(found)} samples."
            )
        if self.temperature != 1:
            job.warnings.append(
                f"The samples are of the posterior to the power 1/{self.temperature:g}: {self.name}.temperature is not "
                "1."
                if self.temperature
                else f"{self.name}.temperature is 0: the samples are iterates of gradient descent."
            )
        return found

    def draw(self, job: PredictJob) -> Iterable[Params]:
        assert isinstance(job.posterior, Members)
        return job.posterior


@register_method
@dataclass(frozen=True, kw_only=True)
class Sgld(Sampler):
    """SGLD with a constant step size; its samples are evenly spaced after the burn-in."""

    name = "sgld"
    title = "SGLD"


@register_method
@dataclass(frozen=True, kw_only=True)
class CyclicalSgld(Sampler):
    """Cyclical SGLD: the step size falls along a cosine in each cycle; noise and samples come after its burn-in."""

    name = "csgld"
    title = "cSGLD"

    cycles: Annotated[int, Fit("cycles of the step size", ge=1, le=10_000)] = 4

    def check(self, task: Task, train: TrainSpec) -> None:
        if self.samples % self.cycles:
            raise ValueError(
                f"{self.name}.samples is {self.samples} and {self.name}.cycles {self.cycles}: all cycles collect the "
                "same number of samples, so make samples a multiple of cycles."
            )
        super().check(task, train)

    @property
    def rounds(self) -> int:
        return self.cycles

    def schedule(self, progress: float) -> float:
        return (math.cos(math.pi * (progress * self.cycles % 1)) + 1) / 2

    def noisy(self, progress: float) -> bool:
        return progress * self.cycles % 1 >= self.burn_in


@register_method
@dataclass(frozen=True, kw_only=True)
class PreconditionedSgld(Sampler):
    """pSGLD: SGLD with RMSprop's preconditioner, without the correction term for its change, as is usual."""

    name = "psgld"
    title = "pSGLD"

    lr: Annotated[float, Fit("step size", gt=0, le=1e30)] = 1e-3
    decay: Annotated[float, Fit("decay of the average of squared gradients", ge=0, lt=1)] = 0.99
    eps: Annotated[float, Fit("added to the root of that average", gt=0, le=1)] = 1e-5

    def optimizer(self, job: FitJob, **options: Any) -> Langevin:
        return super().optimizer(job, decay=self.decay, eps=self.eps)
