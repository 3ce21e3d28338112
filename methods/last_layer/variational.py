"""The variational last layer: its bound, its divergence from the prior, and the posterior that it leaves.

Harrison, Willes and Snoek 2024, arXiv 2404.11599, the discriminative classifier. The logits of answer c are
z_c = w_c^T phi + b_c + noise_c with w_c ~ N(mu_c, S_c), independent for each c, and noise_c ~ N(0, sigma_c^2). By
Jensen's inequality, log p(y | phi) averaged over z is at least

    bound = mu_y^T phi + b_y - log sum_c exp(mu_c^T phi + b_c + (phi^T S_c phi + sigma_c^2) / 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bench.posterior import Params, Posterior

Covariance = Literal["diagonal", "dense"]


class Head:
    """The parameters of q(W) and of the noise, as leaves that an optimizer trains.

    Attributes:
        mean: (C, d), mu.
        log_root: (C, d), half the logarithm of the diagonal of S_c; for a dense S_c = L_c L_c^T that of L_c's diagonal.
        lower: (C, d, d), of which L_c takes what lies below the diagonal; None for a diagonal S_c.
        log_noise: (C,), log sigma_c^2.
        bias: (C,), b; not trained.
    """

    def __init__(
        self, weights: Tensor, bias: Tensor, variance: float, noise: float, covariance: Covariance = "diagonal"
    ) -> None:
        answers, width = weights.shape
        self.bias = bias.detach().clone()
        self.mean = weights.detach().clone().requires_grad_()
        self.log_root = torch.full_like(weights, 0.5 * math.log(variance)).requires_grad_()
        self.log_noise = torch.full_like(bias, math.log(noise)).requires_grad_()
        self.lower = None
        if covariance == "dense":
            self.lower = weights.new_zeros(answers, width, width).requires_grad_()

    def parameters(self) -> list[Tensor]:
        """The leaves to train."""
        return [self.mean, self.log_root, self.log_noise, *([] if self.lower is None else [self.lower])]

    def root(self) -> Tensor:
        """(C, d) standard deviations, or (C, d, d) lower triangular L_c."""
        diagonal = self.log_root.exp()
        return diagonal if self.lower is None else self.lower.tril(-1) + torch.diag_embed(diagonal)

    def bound(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B,) lower bounds on log p(label | features), in nats."""
        mean = features @ self.mean.T + self.bias
        variance = quadratic(self.root(), features) + self.log_noise.exp()
        chosen = mean.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        return chosen - (mean + variance / 2).logsumexp(-1)

    def divergence(self, prior_variance: float) -> Tensor:
        """KL(q(W) || N(0, prior_variance I)), in nats."""
        squares = self.mean.square().sum() + self.root().square().sum()
        log_ratio = self.mean.numel() * math.log(prior_variance) - 2 * self.log_root.sum()
        return (squares / prior_variance - self.mean.numel() + log_ratio) / 2

    def log_noise_prior(self, dof: float, scale: float) -> Tensor:
        """log density, up to a constant, of the Wishart prior on the precisions 1 / sigma_c^2."""
        nu = (dof + len(self.log_noise) + 1) / 2
        return (-nu * self.log_noise - scale / 2 * (-self.log_noise).exp()).sum()

    @torch.no_grad()
    def posterior(self, adapters: Params) -> VariationalHead:
        """A copy of q(W) and the noise, with the adapters that they were trained with."""
        rows = {"mean": self.mean, "root": self.root(), "bias": self.bias, "noise": self.log_noise.exp()}
        return VariationalHead(dict(adapters), {name: value.detach().clone() for name, value in rows.items()})


def quadratic(root: Tensor, features: Tensor) -> Tensor:
    """(B, C): phi^T S_c phi for (B, d) features and the roots of S_c."""
    if root.ndim == 2:
        return features.square() @ root.square().T
    return torch.einsum("cde,bd->bce", root, features).square().sum(-1)


@dataclass(frozen=True)
class VariationalHead(Posterior):
    """Adapters ``value``, and under ``rows`` the ``mean``, ``root``, ``bias`` and ``noise`` of the answer head.

    It has no mean in terms of adapters, whose logits would come from the base's own rows.
    """

    kind = "variational_head"
    value: Params
    rows: Params

    @property
    def uncertain(self) -> list[str]:
        return []

    def moments(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """((B, C) mean, (B, C, C) diagonal covariance) of the logits in float64, for (B, d) features."""
        wide = features.double()
        rows = {name: value.double() for name, value in self.rows.items()}
        mean = wide @ rows["mean"].T + rows["bias"]
        return mean, torch.diag_embed(quadratic(rows["root"], wide) + rows["noise"])
