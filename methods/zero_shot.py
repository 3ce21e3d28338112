"""The base model alone, without finetuning: what every method starts from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.method import FitJob, Method, PredictJob, register_method
from bench.posterior import Point, Posterior


@register_method
@dataclass(frozen=True, kw_only=True)
class ZeroShot(Method):
    """Predicts with B = 0, where W + (alpha / r) B A is the base's W. Needs no training; the seed plays no part."""

    name = "zero_shot"
    title = "Zero-shot"

    def fit(self, job: FitJob) -> Posterior:
        return Point({})

    def predict(self, job: PredictJob) -> Tensor:
        zero = {name: torch.zeros_like(p) for name, p in job.model.params.items() if "lora_B" in name}
        return job.log_probs(zero).unsqueeze(0)
