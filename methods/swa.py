"""SWA and SWAG: the mean, and a Gaussian, of the adapters that AdamW passes through at a constant learning rate.

Izmailov et al. 2018, arXiv 1803.05407; Maddox et al. 2019, arXiv 1902.02476; for LoRA: Onal et al. 2024,
arXiv 2405.03425.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from bench.method import FitJob, Method, PredictJob, register_method
from bench.options import Fit, Predict
from bench.posterior import LowRankGaussian, Params, Posterior
from bench.specs import TrainSpec
from bench.task import Task
from methods.adamw import AdamW

AUTO_SNAPSHOTS = 20  # least number of snapshots when `every` is 0, if there are as many steps


@register_method
@dataclass(frozen=True, kw_only=True)
class Swa(AdamW):
    """AdamW, then snapshots at a constant learning rate; predicts at their mean.

    The schedule (ours; PROTOCOL 5), with T steps and all times as shares of T:

        lr                            until start (1 - anneal)
        from lr to lr * swa_ratio     linearly until start
        lr * swa_ratio                until the end, with a snapshot after every ``every`` steps

    So all snapshots come from one stationary phase. The posterior is SWAG's (bench.posterior.LowRankGaussian): the mean
    of all n snapshots, their variance per parameter (over n), and the deviations of the last K = min(rank, n) from
    the mean. The mean is the final one, not the running one of Maddox et al., who do not keep the snapshots: with
    the running mean the first deviation is 0 and the next ones are too small.
    """

    name = "swa"
    title = "SWA"

    lr: Annotated[float, Fit("learning rate before the snapshots", ge=0, le=1e30)] = 5e-5
    swa_ratio: Annotated[float, Fit("learning rate while collecting over lr (published: 1/2 to 1/10)", le=1e3)] = 0.5
    start: Annotated[float, Fit("share of the steps after which snapshots are collected")] = 0.5
    anneal: Annotated[float, Fit("share of the steps before start over which the learning rate falls")] = 1.0
    every: Annotated[
        int, Fit(f"steps between snapshots; 0: as many as leave at least {AUTO_SNAPSHOTS} snapshots", ge=0)
    ] = 0
    rank: Annotated[int, Fit("largest number of deviations to hold, K", ge=2, le=1000)] = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.swa_ratio <= 0:
            raise ValueError(f"{self.name}.swa_ratio is {self.swa_ratio}: give more than 0, or all snapshots are one.")
        if not 0 <= self.start < 1:
            raise ValueError(f"{self.name}.start is {self.start}: it is a share of the steps, so give one in [0, 1).")
        if not 0 <= self.anneal <= 1:
            raise ValueError(f"{self.name}.anneal is {self.anneal}: it is a share, so give one in [0, 1].")

    def check(self, task: Task, train: TrainSpec) -> None:
        count = len(self.snapshot_steps(train.steps))
        if count < 2:
            raise ValueError(
                f"{self.name} would take {count} snapshot{'' if count == 1 else 's'} in {train.steps} steps, and a "
                f"covariance needs 2: raise steps, or lower {self.name}.start or {self.name}.every."
            )

    def snapshot_steps(self, steps: int) -> range:
        """The numbers of steps done at which a training of ``steps`` takes its snapshots."""
        first = round(self.start * steps)
        every = self.every or max(1, (steps - first) // AUTO_SNAPSHOTS)
        past = 1 + next(
            (t for t in range(steps) if t / steps >= self.start), steps
        )  # a step at the constant rate, done
        return range(max(first + every, past), steps + 1, every)

    def schedule(self, progress: float) -> float:
        """Learning-rate factor at ``progress`` = t/T."""
        fall = self.start * (1 - self.anneal)
        if progress >= self.start:
            return self.swa_ratio
        if progress < fall:
            return 1.0
        return 1 - (1 - self.swa_ratio) * (progress - fall) / (self.start - fall)

    def fit(self, job: FitJob) -> Posterior:
        moments = Moments(self.rank)
        due = self.snapshot_steps(job.spec.train.steps)

        def after_step(done: int) -> None:
            if done in due:
                moments.add(job.model.params)

        job.train(
            self.optimizer(job, self.weight_decay),
            schedule=self.schedule,
            after_step=after_step,
            state={"moments": moments},
            mean=lambda: moments.mean() if moments.count else job.model.params,
            diagnose=lambda: {"snapshots": moments.count},
        )
        posterior = moments.gaussian()
        variances = torch.cat([variance.flatten() for variance in posterior.variance.values()])
        job.facts.update(snapshots=moments.count, rank=posterior.rank, mean_sd=float(variances.mean().sqrt()))
        return posterior


class Moments:
    """Mean and variance of all values that pass, in one pass and float64 (Welford), and the last ``rank`` values."""

    def __init__(self, rank: int) -> None:
        self.count = 0
        self.total: dict[str, Tensor] = {}
        self.scatter: dict[str, Tensor] = {}  # sum of squared deviations from the mean
        self.last: deque[dict[str, Tensor]] = deque(maxlen=rank)

    @torch.no_grad()
    def add(self, params: Params) -> None:
        """Take in a copy of ``params`` as they are now."""
        self.count += 1
        for name, parameter in params.items():
            value = parameter.detach().double()
            if self.count == 1:
                self.total[name], self.scatter[name] = value.clone(), torch.zeros_like(value)
                continue
            old = self.total[name] / (self.count - 1)
            self.total[name] = self.total[name] + value
            self.scatter[name] += (value - old) * (value - self.total[name] / self.count)
        self.last.append({name: parameter.detach().clone() for name, parameter in params.items()})

    def mean(self) -> dict[str, Tensor]:
        """The arithmetic mean of all values."""
        return {name: (self.total[name] / self.count).to(value) for name, value in self.last[-1].items()}

    def gaussian(self) -> LowRankGaussian:
        """SWAG's posterior: mean, variance over the count, and the last values' deviations from the mean."""
        variance, deviations = {}, {}
        for name, value in self.last[-1].items():
            variance[name] = (self.scatter[name] / self.count).clamp_min(0).to(value)
            values = torch.stack([kept[name].double() for kept in self.last])
            deviations[name] = (values - self.total[name] / self.count).to(value)
        return LowRankGaussian(self.mean(), variance, deviations)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "total": self.total, "scatter": self.scatter, "last": list(self.last)}

    def load_state_dict(self, state: Any) -> None:
        self.count, self.total, self.scatter = state["count"], state["total"], state["scatter"]
        self.last = deque(state["last"], maxlen=self.last.maxlen)


@register_method
@dataclass(frozen=True, kw_only=True)
class Swag(Method):
    """SWA's posterior, predicted with draws: mean + sqrt(tau / 2) sigma z1 + sqrt(tau / (2 (K - 1))) D z2."""

    name = "swag"
    title = "SWAG"
    base = "swa"

    draws: Annotated[int, Predict("posterior draws whose probabilities are averaged", ge=1, le=100_000)] = 10
    tau: Annotated[float, Predict("scale of the covariance: 0 is SWA, 1 the posterior", ge=0, le=1e4)] = 1.0

    def draw(self, job: PredictJob) -> Iterable[Params]:
        return job.posterior.draws(self.draws, job.generator, self.tau)
