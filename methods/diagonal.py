"""What every diagonal Gaussian offers at prediction: variance on A or B alone, and pruning by signal-to-noise ratio."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from bench.method import Method, PredictJob
from bench.options import Predict
from bench.posterior import DiagGaussian, Params, Posterior

MATRICES = ("lora_A", "lora_B")  # in the names of the adapters' matrices; DoRA's magnitudes are not pruned


@dataclass(frozen=True, kw_only=True)
class Pruned(Method):
    """A method that predicts with a diagonal Gaussian, some of whose entries may be set to 0."""

    prune: Annotated[
        float, Predict("share of the entries of A and B set to 0: those of least |mean|/sd", ge=0, le=1, since="0.2")
    ] = 0.0

    def narrowed(self, posterior: Posterior) -> DiagGaussian:
        """The posterior to predict with, under this method's options."""
        if not isinstance(posterior, DiagGaussian):
            raise TypeError(f"{self.name} predicts with a diagonal Gaussian, not with a {posterior.kind}.")
        return pruned(posterior, self.prune)


@dataclass(frozen=True, kw_only=True)
class Diagonal(Pruned):
    """The same with draws or a covariance, which may be that of the A or of the B matrices alone."""

    uncertain: Annotated[
        Literal["all", "A", "B"], Predict("the matrices that vary: all, or A or B alone", since="0.2")
    ] = "all"

    def narrowed(self, posterior: Posterior) -> DiagGaussian:
        found = super().narrowed(posterior)  # pruned first: what is pruned does not depend on what varies
        return found if self.uncertain == "all" else varying(found, f"lora_{self.uncertain}")


@dataclass(frozen=True, kw_only=True)
class DiagonalDraws(Diagonal):
    """The same, predicted with ``draws`` from N(m, tau v)."""

    draws: Annotated[int, Predict("posterior draws whose probabilities are averaged", ge=1, le=100_000)] = 10
    tau: Annotated[float, Predict("scale of the variance: 0 is the mean, 1 the posterior", ge=0, le=1e4)] = 1.0

    def draw(self, job: PredictJob) -> Iterable[Params]:
        return self.narrowed(job.posterior).draws(self.draws, job.generator, self.tau)


def varying(posterior: DiagGaussian, part: str) -> DiagGaussian:
    """The posterior with a variance for the parameters whose name holds ``part``; all others are known."""
    kept = {name: variance for name, variance in posterior.variance.items() if part in name}
    return DiagGaussian(posterior.location, kept)


def pruned(posterior: DiagGaussian, share: float) -> DiagGaussian:
    """The posterior with the ``share`` of the entries of A and B that have the least |m| / sqrt(v) known to be 0.

    Entries that the posterior knows (v = 0) are the last to go. At share 0 this is ``posterior`` itself; at 1 no
    adapter is left, only the base (and DoRA's magnitudes). Graves 2011; Cong et al. 2025, arXiv 2506.14280.
    """
    if share == 0:
        return posterior
    names = [name for name in posterior.location if any(part in name for part in MATRICES)]
    ratio = torch.cat([_ratio(posterior, name).flatten() for name in names])
    gone = torch.zeros(len(ratio), dtype=torch.bool, device=ratio.device)
    gone[ratio.argsort(stable=True)[: round(share * len(ratio))]] = True
    pieces = torch.split(gone, [posterior.location[name].numel() for name in names])
    location, variance = dict(posterior.location), dict(posterior.variance)
    for name, piece in zip(names, pieces, strict=True):
        zero = piece.view(location[name].shape)
        location[name] = location[name].masked_fill(zero, 0)
        if name in variance:
            variance[name] = variance[name].masked_fill(zero, 0)
    return DiagGaussian(location, variance)


def _ratio(posterior: DiagGaussian, name: str) -> torch.Tensor:
    """|m| / sqrt(v) in float64, infinite where v = 0."""
    mean = posterior.location[name].double().abs()
    variance = posterior.variance.get(name, torch.zeros_like(mean)).double()
    return torch.where(variance > 0, mean / variance.sqrt(), torch.inf)
