"""A sampler that collects its draws while training: stochastic gradient Langevin dynamics (Welling and Teh 2011)."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch

from bench.method import Method, register_method
from bench.options import Fit
from bench.posterior import Members
from bench.train.checkpoint import Snapshots
from bench.train.schedules import constant


@register_method
@dataclass(frozen=True, kw_only=True)
class Sgld(Method):
    """theta <- theta - lr grad + N(0, 2 lr T / N); keeps every ``every``-th step after ``burn_in``."""

    name, title = "sgld", "SGLD"
    lr: Annotated[float, Fit("step size, constant")] = 1e-2
    temperature: Annotated[float, Fit("T; 1 samples the posterior")] = 0.1
    burn_in: Annotated[int, Fit("steps before the first sample")] = 4
    every: Annotated[int, Fit("steps between samples")] = 2

    def check(self, task, train):
        if train.steps < self.burn_in + self.every:
            raise ValueError(f"sgld collects no sample in {train.steps} steps: lower sgld.burn_in or sgld.every.")

    def fit(self, job):
        samples, params = Snapshots(), job.model.params
        scale = math.sqrt(2 * self.lr * self.temperature / len(job.data))

        def after_step(step):
            with torch.no_grad():
                for p in params.values():
                    p.add_(scale * torch.randn(p.shape, generator=job.generator).to(p.device))
            if step > self.burn_in and (step - self.burn_in) % self.every == 0:
                samples.add(params)

        optimizer = torch.optim.SGD(list(params.values()), lr=self.lr)
        job.train(optimizer, schedule=constant, after_step=after_step, state={"samples": samples})
        return Members.of(samples.values)

    def draw(self, job):
        return list(job.posterior)
