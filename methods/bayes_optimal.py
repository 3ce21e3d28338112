"""The exact predictive of a synthetic task's generator: the row no method can beat in expectation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.method import Method, PredictJob
from bench.posterior import Point, Posterior
from bench.registry import register_method
from bench.specs import TrainSpec
from bench.task import Task
from bench.train.loop import FitJob


@register_method
@dataclass(frozen=True, kw_only=True)
class BayesOptimal(Method):
    """p(answer | prompt) under the generator itself. Needs no training and no model; real tasks have no such row."""

    name: ClassVar[str] = "bayes_optimal"
    title: ClassVar[str] = "Bayes-optimal"
    uses_model: ClassVar[bool] = False

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
