"""IVON-2's prior: the precision of each matrix in closed form. Cong et al. 2025, arXiv 2506.14280.

With q = N(m, diag v) over the d entries of a matrix and the prior N(0, s^2 I), the evidence bound depends on s through

    KL(q || N(0, s^2 I)) = sum_j (log(s / sqrt(v_j)) + (v_j + m_j^2) / (2 s^2) - 1/2),

which is least at s^2 = (|m|^2 + sum v) / d. In IVON's units delta = 1 / (ess s^2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.ivon.optimizer import IVON


def prior_variance(mean: Tensor, variance: Tensor) -> Tensor:
    """s^2, the variance of the zero-mean prior that is nearest to N(mean, variance)."""
    return (mean.square() + variance).mean()


class AdaptivePrior:
    """Sets each group's ``weight_decay`` (delta) to that of its best prior. A group is one matrix.

    delta stands in v = 1 / (ess (h + delta)) and in the preconditioner; it does not pull the mean to 0
    (``shrink_mean``), whose size the prior follows.

    Args:
        optimizer: over one group per matrix.
        smallest_sd: least sd of a prior. At m = 0, where B starts, the best prior is q itself, and following it would
            narrow q and prior in turns without end.
    """

    def __init__(self, optimizer: IVON, smallest_sd: float) -> None:
        self.optimizer = optimizer
        self._least = smallest_sd**2

    @torch.no_grad()
    def update(self) -> None:
        """Follow the posterior as it is now. It waits once for the device."""
        variances = self.optimizer.posterior_variance()
        groups = self.optimizer.param_groups
        means = [p for group in groups for p in group["params"]]
        best = torch.stack([prior_variance(m, v).double() for m, v in zip(means, variances, strict=True)]).tolist()
        for group, variance in zip(groups, best, strict=True):
            group["weight_decay"] = 1 / (group["ess"] * max(variance, self._least))

    def sds(self) -> list[float]:
        """s of each group."""
        return [(group["ess"] * group["weight_decay"]) ** -0.5 for group in self.optimizer.param_groups]
