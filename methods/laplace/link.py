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
        jitter = JITTER * torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
        root = torch.linalg.cholesky(covariance + jitter)
        drawn = logits + torch.einsum("kd,bcd->kbc", noise, root)
        return log_softmax(drawn.log_softmax(-1).logsumexp(0))


@dataclass(frozen=True, kw_only=True)
class Linked(GaussianLogits):
    """The same with Jacobians, which take a backward pass per answer and memory per example."""

    jacobian_batch: Annotated[int, Predict("linearised: examples per forward and backward pass", ge=1)] = 8

    def pieces(self, batch: Batch) -> Iterable[Batch]:
        return batch.split(math.ceil(len(batch) / self.jacobian_batch))
