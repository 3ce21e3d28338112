"""A method that trains and tunes at once: AdamW, stopped where the NLL of the tuning examples was lowest."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch.nn.functional import cross_entropy

from bench.method import Method, register_method
from bench.options import Fit
from bench.posterior import Point


class Best:
    """The adapters of the lowest NLL so far; checkpointed with the training."""

    def __init__(self):
        self.nll, self.params = float("inf"), {}

    def state_dict(self):
        return {"nll": self.nll, "params": self.params}

    def load_state_dict(self, state):
        self.nll, self.params = state["nll"], state["params"]


@register_method
@dataclass(frozen=True, kw_only=True)
class EarlyStopping(Method):
    """AdamW, with the adapters of the step at which ``job.tuning`` had the lowest NLL."""

    name, title, tunes = "early_stopping", "Early stopping", True
    lr: Annotated[float, Fit("peak learning rate", ge=0)] = 1e-3
    every: Annotated[int, Fit("steps between looks at the tuning examples", ge=1)] = 4

    def fit(self, job):
        best = Best()

        @torch.no_grad()
        def after_step(done):
            if done % self.every and done != job.spec.train.steps:
                return
            with job.model.dropout(False):
                batches = (batch for _, batch in job.tuning.in_order(32))
                nll = sum(float(cross_entropy(job.model.logits(b), b.labels, reduction="sum")) for b in batches)
            if nll < best.nll:
                best.nll, best.params = nll, job.model.snapshot()

        optimizer = torch.optim.AdamW(list(job.model.params.values()), lr=self.lr, weight_decay=0)
        job.train(optimizer, after_step=after_step, state={"best": best})
        return Point(best.params)
