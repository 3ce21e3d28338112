"""The exact predictive of a synthetic task's generator: the row no method can beat in expectation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.method import FitJob, Method, PredictJob, register_method
from bench.posterior import Point, Posterior
from bench.specs import TrainSpec
from bench.task import Task


@register_method
@dataclass(frozen=True, kw_only=True)
class BayesOptimal(Method):
    """p(answer | prompt) under the generator itself. Needs no training and no model; real tasks have no such row."""

    name = "bayes_optimal"
    title = "Bayes-optimal"
    uses_model = False

    def check(self, task: Task, train: TrainSpec) -> None:
        if not task.exact:
            raise ValueError(
                f"bayes_optimal needs a task whose answer distribution is known; '{task.name}' is not one. "
                "Take it out of the grid, or choose a synthetic task (`bench list tasks`)."
            )

    def fit(self, job: FitJob) -> Posterior:
        return Point({})

    def predict(self, job: PredictJob) -> Tensor:
        return torch.tensor([[example.truth for example in job.examples]], dtype=torch.float64).log()
