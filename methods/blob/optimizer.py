"""Variational training with two update rules: AdamW on the loss, SGD on the KL divergence to the prior.

BLoB's (Wang et al. 2024, arXiv 2406.11675) and ScalaBL's (Samplawski et al. 2025, arXiv 2506.21408). In step i

    AdamW    on the loss, for the parameters it is given
    SGD      p <- p - kl_lr (w_i dKL/dp [+ dloss/dp, for parameters that AdamW is not given])

with the KL's gradient in closed form, taken after AdamW's step. The loss is a mean over examples, so w_i = 1 / N is the
evidence lower bound. The published weights run through cycles of M steps and grow twofold in each step,

    w_i = 2^i / (2^(M + 1) - 1),  i = 1 ... M,        sum_i w_i = 1 to rounding,
    M   = floor(100 N^(pi / gamma) / batch size)

(pi = 3.14159...), so the KL's mean weight is 1 / M: a bound at temperature N / M.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from bench.method import FitJob

KlWeight = Literal["cycle", "elbo"]


class AdamThenSgd(torch.optim.AdamW):
    """The two rules of the module's docstring.

    Args:
        adam: parameters that AdamW moves by the loss.
        sgd: parameters that SGD moves by the loss and the KL.
        lr, betas, eps: AdamW's; no weight decay.
        kl_lr: SGD's learning rate; both rates follow the schedule that ``FitJob.train`` is given.
        kl: called after AdamW's step; pairs of any of these parameters and its gradient of the weighted KL.
    """

    def __init__(
        self,
        adam: Sequence[Tensor],
        sgd: Sequence[Tensor],
        *,
        lr: float,
        kl_lr: float,
        betas: tuple[float, float],
        eps: float,
        kl: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    ) -> None:
        groups = [{"params": list(adam), "lr": lr}, {"params": list(sgd), "lr": kl_lr}]
        super().__init__(groups, betas=betas, eps=eps, weight_decay=0.0, foreach=True)
        self._kl = kl

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of both rules, from the gradients that are there: a closure is not supported."""
        if closure is not None:
            raise TypeError("AdamThenSgd takes no closure: call backward before step().")
        plain = self.param_groups[1]["params"]
        moves = [(parameter, parameter.grad) for parameter in plain if parameter.grad is not None]
        for parameter in plain:
            parameter.grad = None  # AdamW passes over what has no gradient
        super().step()
        for parameter, gradient in [*moves, *self._kl()]:
            parameter.sub_(gradient, alpha=self.param_groups[1]["lr"])


def cycle_length(examples: int, batch_size: int, gamma: float) -> int:
    """M, the steps of a cycle of KL weights; at most 2^62."""
    exponent = math.pi / gamma
    if exponent * math.log(max(examples, 2)) > 40:  # 100 e^40 is more than any training takes
        return 2**62
    return min(2**62, max(1, int(100 * math.pow(examples, exponent) / batch_size)))


def cycle_weight(step: int, length: int) -> float:
    """The weight of the KL in the step after ``step`` steps, in cycles of ``length``."""
    place = step % length + 1
    return float(2.0 ** (place - length - 1) / (1 - 2.0 ** (-length - 1)))


def kl_weights(job: FitJob, kind: KlWeight, gamma: float, option: str) -> tuple[Callable[[], float], int]:
    """(the KL's weight at ``job.step``, the steps after which it starts again: M, or an epoch for ``elbo``).

    ``option`` is the name of the option that ``kind`` is the value of.

    A warning is added to the job if its training ends within the first cycle, where the weights are next to 0.
    """
    examples, train = len(job.data), job.spec.train
    if kind == "elbo":
        return lambda: 1 / examples, math.ceil(examples / train.batch_size)
    length = cycle_length(examples, train.batch_size, gamma)
    if train.steps < length:
        job.warnings.append(
            f"The training ends after {train.steps} steps, within the first cycle of {length} KL weights, so the KL "
            f"hardly counts (its last weight is {cycle_weight(train.steps - 1, length):.1g}): take more steps, raise "
            f"{job.spec.method}.gamma, or set {job.spec.method}.{option}=elbo."
        )
    return lambda: cycle_weight(job.step, length), length
