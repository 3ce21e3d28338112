"""MC dropout on the adapters: dropout stays on at prediction. Gal and Ghahramani 2016, arXiv 1506.02142."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch

from bench.method import Method, PredictJob, register_method
from bench.options import Predict
from bench.posterior import Params
from bench.specs import FitSpec


@register_method
@dataclass(frozen=True, kw_only=True)
class McDropout(Method):
    """AdamW's adapters under ``masks`` dropout masks, probabilities averaged; the rate p is that of training.

    A mask is one Bernoulli(1 - p) draw per input feature of each adapter, the same for all tokens and examples:

        A <- A diag(mask) / (1 - p),   mask of shape (in_features,), one for each A

    which is what LoRA dropout does to the adapter's input, B A (x * mask) / (1 - p), with the mask held fixed. So a
    mask is a value of the adapters, one function for the whole evaluation set, whatever the batches. Training's
    nn.Dropout differs in one thing: it draws a new mask for every token of every example. q and v have masks of their
    own, as in training.
    """

    name = "mc_dropout"
    title = "MC dropout"
    base = "adamw"

    masks: Annotated[int, Predict("dropout masks whose probabilities are averaged", ge=1, le=100_000)] = 10

    def check_fit(self, fit: FitSpec) -> None:
        if fit.model.lora.dropout == 0:
            raise ValueError(
                "mc_dropout needs adapters trained with dropout, and lora.dropout is 0: all its masks would be alike. "
                "Set lora.dropout, such as 0.1, or take mc_dropout out."
            )
        if fit.model.lora.variant == "dora":
            raise ValueError(
                "mc_dropout masks the inputs of adapters by masking A, which in DoRA changes the norm of the weights, "
                "too: use lora.variant=lora or rslora, or take mc_dropout out."
            )

    def draw(self, job: PredictJob) -> Iterable[Params]:
        rate = job.model.spec.lora.dropout
        for _ in range(self.masks):
            yield masked(job.posterior.mean, rate, job.generator)


def masked(params: Params, rate: float, generator: torch.Generator) -> Params:
    """``params`` with each column of each A (r, in_features) dropped at ``rate``, or scaled by 1 / (1 - rate)."""
    dropped = {}
    for name, value in params.items():
        if "lora_A" in name:
            kept = torch.rand(value.shape[1], generator=generator) >= rate
            dropped[name] = value * (kept / (1 - rate)).to(value)
    return {**params, **dropped}
