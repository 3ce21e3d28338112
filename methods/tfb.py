"""TFB: training-free Bayesianization of low-rank adapters. Shi et al. 2024, arXiv 2412.05723.

Of each adapter B A with B = U diag(d) V^T (thin SVD, float64):

    B' = U diag(d),  A' = V^T A          the same B' A' = B A
    A'_ij ~ N(mean A'_ij, (sd / d_i)^2)  B' known

so the columns of B' A' are independent with covariance sd^2 U U^T: isotropic in the range of B, with one sd for all
adapters, and 0 outside of it. ``sd`` is the largest that the tuning examples allow (methods.search). Where d_i = 0, row
i of A' has no effect and no variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from bench.method import FitJob, PredictJob, Recipe, register_method
from bench.options import Predict
from bench.posterior import DiagGaussian, Params, Posterior
from methods.blob.flipout import FLIPOUT, flipout_log_probs
from methods.diagonal import MATRICES, DiagonalDraws
from methods.search import Widest, scaled

DEAD = 1e-6  # singular values of B below this share of the largest are 0 to float32


@register_method
@dataclass(frozen=True, kw_only=True)
class Tfb(DiagonalDraws, Widest):
    """The widest Gaussian around AdamW's adapters that is isotropic in the range of each B. Nothing is trained."""

    name = "tfb"
    title = "TFB"
    base = "adamw"
    reads_maps = True

    predictive: Annotated[
        Literal["weights", "flipout"],
        Predict("draws of A', fixed for all examples, or independent noise per token"),
    ] = "weights"

    def fit(self, job: FitJob) -> Posterior:
        unit = in_range_of_b(job.starts[0].mean)
        if not unit.uncertain:
            job.warnings.append(
                f"B is 0 in every adapter of {self.base}, so there is no range for a variance and {self.name} predicts "
                f"as {self.base} does: check that {self.base} has learned something."
            )
            return unit
        return DiagGaussian(unit.location, scaled(unit.variance, self.widest(job, unit) ** 2))

    def recipe(self, posterior: Posterior) -> Recipe:
        return Recipe(otherwise="" if self.predictive == "weights" or not self.tau else FLIPOUT)

    def predict(self, job: PredictJob) -> Tensor:
        if not self.recipe(job.posterior).otherwise:
            return super().predict(job)
        return flipout_log_probs(job, self.narrowed(job.posterior), self.draws, self.tau)


@register_method
@dataclass(frozen=True, kw_only=True)
class TfbMap(Tfb):
    """TFB around MAP's adapters."""

    name = "tfb_map"
    title = "TFB (MAP)"
    base = "map"
    settings_of = "tfb"


@register_method
@dataclass(frozen=True, kw_only=True)
class TfbSwa(Tfb):
    """TFB around SWA's mean."""

    name = "tfb_swa"
    title = "TFB (SWA)"
    base = "swa"
    settings_of = "tfb"


@register_method
@dataclass(frozen=True, kw_only=True)
class TfbIvon(Tfb):
    """TFB around IVON's mean."""

    name = "tfb_ivon"
    title = "TFB (IVON mean)"
    base = "ivon_mean"
    settings_of = "tfb"


@register_method
@dataclass(frozen=True, kw_only=True)
class TfbBlob(Tfb):
    """TFB around BLoB's mean."""

    name = "tfb_blob"
    title = "TFB (BLoB mean)"
    base = "blob_mean"
    settings_of = "tfb"


def in_range_of_b(params: Params) -> DiagGaussian:
    """TFB's posterior at sd = 1: the mean as B' and A', and the variances 1 / d_i^2 of A', in their dtype.

    Parameters that are neither A nor B (DoRA's magnitudes) stay as they are, and known.
    """
    location, variance = dict(params), {}
    for first in (name for name in params if MATRICES[0] in name):
        second = first.replace(*MATRICES)
        a, b = params[first], params[second]
        new_a, new_b, d = rotated(a.double().cpu(), b.double().cpu())
        alive = d > DEAD * d.max()
        inverse = torch.where(alive, 1 / torch.where(alive, d, 1), 0)
        location[first], location[second] = new_a.to(a), new_b.to(b)
        variance[first] = inverse.square().unsqueeze(1).expand_as(a).to(a).contiguous()
    return DiagGaussian(location, variance)


def rotated(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(A' = V^T A, B' = U diag(d), d) for A (r, in) and B (out, r); d has r entries, 0 beyond the rank of B."""
    u, d, vt = torch.linalg.svd(b, full_matrices=b.shape[0] < b.shape[1])
    if len(d) < b.shape[1]:  # fewer outputs than r, as in an answer head: all of V, so that A' keeps its shape
        d = torch.cat([d, d.new_zeros(b.shape[1] - len(d))])
        u = torch.cat([u, u.new_zeros(len(u), len(d) - u.shape[1])], 1)
    return vt @ a, u * d, d
