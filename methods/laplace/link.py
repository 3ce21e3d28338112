"""From a Gaussian over the logits to probabilities: what every linearised predictive ends with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from bench.data.batches import Batch
from bench.method import Method, PredictJob, log_softmax
from bench.options import Predict

LINEARISED = "with the softmax averaged over Gaussian logits, linearised at the mean"
JITTER = 1e-6  # added to the variance of each logit (PROTOCOL 5)


@dataclass(frozen=True, kw_only=True)
class GaussianLogits(Method):
    """The options of a method whose logits are Gaussian for each example."""

    link: Annotated[
        Literal["draws", "probit"], Predict("linearised: softmax averaged over logit draws, or probit approximation")
    ] = "draws"
    link_draws: Annotated[
        int, Predict("logit draws, the same standard normals for every example", ge=1, le=10_000_000)
    ] = 2000

    def linked(self, job: PredictJob, moments: Callable[[Batch], tuple[Tensor, Tensor]]) -> Tensor:
        """(1, N, C) log-probabilities of the softmax averaged over Gaussian logits.

        ``moments`` gives the mean (B, C) and covariance (B, C, C) of the logits of each of :meth:`pieces`.
        """
        noise = torch.randn(self.link_draws, len(job.answers), dtype=torch.float64, generator=job.generator)
        noise = noise.to(job.model.device)

        def over_pieces(batch: Batch) -> Tensor:
            return torch.cat([self._average(*moments(piece), noise) for piece in self.pieces(batch)])

        return job.over_batches(over_pieces).unsqueeze(0)

    def pieces(self, batch: Batch) -> Iterable[Batch]:
        """The parts of a batch whose moments are computed at once: all of it."""
        return [batch]

    @torch.no_grad()
    def _average(self, mean: Tensor, covariance: Tensor, noise: Tensor) -> Tensor:
        """(B, C) log-probabilities of the softmax averaged over N(mean, covariance + jitter)."""
        logits = mean.detach().double()
        if self.link == "probit":
            return log_softmax(logits / (1 + math.pi / 8 * covariance.diagonal(dim1=1, dim2=2)).sqrt())
        root = _root(covariance)
        drawn = logits + torch.einsum("kd,bcd->kbc", noise, root)
        return log_softmax(drawn.log_softmax(-1).logsumexp(0))


def _root(covariance: Tensor) -> Tensor:
    """(B, C, C) lower Cholesky factors of covariances plus a jitter, which is raised where rounding has made one unfit.

    Raises:
        FloatingPointError: one is unfit with a jitter of a thousandth of its largest variance.
    """
    unit = torch.eye(covariance.shape[-1], dtype=torch.float64, device=covariance.device)
    root: Tensor
    root, unfit = torch.linalg.cholesky_ex(covariance + JITTER * unit)
    size = covariance.diagonal(dim1=1, dim2=2).amax(1).reshape(-1, 1, 1)
    for share in (1e-9, 1e-6, 1e-3):
        if not unfit.any():
            return root
        again, still = torch.linalg.cholesky_ex(covariance + (JITTER + share * size) * unit)
        root = torch.where(unfit.reshape(-1, 1, 1) > 0, again, root)
        unfit = torch.where(unfit > 0, still, unfit)
    if unfit.any():
        raise FloatingPointError(
            "The covariance of some logits is not positive definite, by more than rounding: raise prior_precision."
        )
    return root


@dataclass(frozen=True, kw_only=True)
class Linked(GaussianLogits):
    """The same with Jacobians, which take a backward pass per answer and memory per example."""

    jacobian_batch: Annotated[int, Predict("linearised: examples per forward and backward pass", ge=1)] = 8

    def pieces(self, batch: Batch) -> Iterable[Batch]:
        return batch.split(math.ceil(len(batch) / self.jacobian_batch))
