"""The base model alone, without finetuning: what every method starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.method import Method, PredictJob
from bench.posterior import Point, Posterior
from bench.registry import register_method
from bench.train.loop import FitJob


@register_method
@dataclass(frozen=True, kw_only=True)
class ZeroShot(Method):
    """Predicts with B = 0, where W + (alpha / r) B A is the base's W. Needs no training; the seed plays no part."""

    name: ClassVar[str] = "zero_shot"
    title: ClassVar[str] = "Zero-shot"

    def fit(self, job: FitJob) -> Posterior:
        return Point({})

    def predict(self, job: PredictJob) -> Tensor:
        zero = {name: torch.zeros_like(p) for name, p in job.model.params.items() if "lora_B" in name}
        return job.log_probs(zero).unsqueeze(0)
