"""Last-layer Laplace on the answer head: exact, in one pass over the data.

Kristiadi et al. 2020, arXiv 2002.10118; Daxberger et al. 2021, arXiv 2106.14806. With phi(x) in R^d what the answer
head reads and W (C, d) its weights, the logits are g(W phi), where g is the identity unless the model scales or caps
its logits, and G = dg. The posterior is N(W, P^-1) over the C d weights, everything else being known, with

    P = sum_n (G_n^T (diag p_n - p_n p_n^T) G_n) x (phi_n phi_n^T) + prior_precision I.

The sum has the rank K = N (C - 1) at most, so its eigenvectors come from the smaller of a K x K and a C d x C d matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.data.batches import Batch
from bench.method import FitJob, PredictJob, Recipe, register_method
from bench.model.choice_model import LastLayer
from bench.options import Fit, Predict
from bench.posterior import Params, Posterior
from methods.laplace.curvature import roots
from methods.laplace.link import GaussianLogits

SMALLEST, LARGEST = 1e-8, 1e12  # the prior precision with the most evidence is sought between these
HEAD = "with the softmax averaged over Gaussian logits, from a Gaussian over the answer head"
ROUNDING = 1e-13  # eigenvalues below this share of the largest are rounding


@dataclass(frozen=True)
class HeadGaussian(Posterior):
    """Known adapters, and N(W, (V diag(lambda) V^T + precision I)^-1) over the weights of the answer head.

    Attributes:
        value: the adapters.
        vectors: ``head`` -> (m, C, d) orthonormal eigenvectors V of the curvature.
        values: ``head`` -> (m,) eigenvalues lambda > 0.
        prior: ``precision`` -> ().
    """

    kind = "head_gaussian"
    value: Params
    vectors: Params
    values: Params
    prior: Params

    @property
    def mean(self) -> Params:
        return self.value

    @property
    def uncertain(self) -> list[str]:
        return []  # no adapter is

    def logit_covariance(self, layer: LastLayer) -> Tensor:
        """(B, C, C) float64 covariance of the logits."""
        precision = self.prior["precision"].double()
        features, slopes = layer.features.double(), layer.slopes.double()
        inside = torch.einsum("mcd,bd->bcm", self.vectors["head"].double(), features)
        shrunk = self.values["head"].double() / (self.values["head"].double() + precision)
        identity = torch.eye(slopes.shape[1], dtype=torch.float64, device=slopes.device)
        whole = features.square().sum(-1)[:, None, None] * identity
        return slopes @ ((whole - (inside * shrunk) @ inside.mT) / precision) @ slopes.mT


@register_method
@dataclass(frozen=True, kw_only=True)
class LastLayerLaplace(GaussianLogits):
    """Laplace on the weights of the answer head, with the exact GGN; the adapters stay at AdamW's."""

    name = "llla"
    title = "LA (last layer)"
    base = "adamw"

    prior_precision: Annotated[
        float, Fit("precision of the Gaussian prior; 0 maximises the evidence", ge=0, le=1e12)
    ] = 0.0
    tau: Annotated[float, Predict("scale of the covariance: 0 is AdamW, 1 the posterior", ge=0, le=1e4)] = 1.0
    rank: Annotated[int, Fit("largest number of eigenvectors of the curvature to keep; 0 keeps all", ge=0)] = 0

    def fit(self, job: FitJob) -> Posterior:
        mean, model = job.starts[0].mean, job.model
        curvature, likelihood = HeadCurvature(self.rank), 0.0
        with model.assign(mean):
            job.progress.start("curvature", len(job.data))
            for rows, batch in job.data.in_order(job.spec.train.batch_size):
                layer = model.last_layer(batch)
                curvature.add(layer, len(job.data))
                likelihood -= float(cross_entropy(layer.logits, batch.labels, reduction="sum"))
                job.progress.advance(len(rows))
            job.progress.finish()
            squares = float(head_weights(model.head).double().square().sum())
        vectors, values = curvature.eigen()
        precision = self.prior_precision or best_precision(values, squares)
        if not self.prior_precision and not 2 * SMALLEST < precision < LARGEST / 2:
            job.warnings.append(
                f"The evidence has no maximum inside its range: the prior precision is {precision:.3g}. Set "
                f"{self.name}.prior_precision."
            )
        job.facts.update(
            prior_precision=precision,
            log_likelihood=likelihood,
            log_evidence=likelihood + log_evidence(values, squares, precision),
            effective_parameters=float((values / (values + precision)).sum()),
            eigenvectors=len(values),
        )
        prior = torch.tensor(precision, dtype=torch.float64)
        return HeadGaussian(mean, {"head": vectors}, {"head": values}, {"precision": prior})

    def recipe(self, posterior: Posterior) -> Recipe:
        return Recipe(otherwise=HEAD if self.tau else "")

    def predict(self, job: PredictJob) -> Tensor:
        if self.tau == 0:
            return job.log_probs(job.posterior.mean).unsqueeze(0)
        model, posterior = job.model, job.posterior.to(job.model.device)
        if not isinstance(posterior, HeadGaussian):
            raise TypeError(f"{self.name} predicts with its own posterior, not with a {posterior.kind}.")

        def moments(batch: Batch) -> tuple[Tensor, Tensor]:
            layer = model.last_layer(batch)
            return layer.logits, self.tau * posterior.logit_covariance(layer)

        with model.assign(posterior.mean):
            return self.linked(job, moments)


class HeadCurvature:
    """The GGN of the cross-entropy in the C d weights of the answer head, summed over batches.

    It is kept as the rows whose outer products sum to it, or, once these would be more than C d, as the matrix itself.
    """

    def __init__(self, rank: int = 0) -> None:
        self._rank = rank
        self._rows: list[Tensor] = []
        self._sum: Tensor | None = None
        self._shape = (0, 0)

    def add(self, layer: LastLayer, examples: int) -> None:
        """Add a batch of a training set of so many ``examples``."""
        directions = torch.einsum("kbc,bce->kbe", roots(layer.logits.double()), layer.slopes.double())
        rows = torch.einsum("kbe,bd->kbed", directions, layer.features.double()).flatten(2).flatten(0, 1)
        answers, width = directions.shape[2], layer.features.shape[1]
        self._shape = answers, width
        if examples * (answers - 1) < answers * width:
            self._rows.append(rows)
        else:
            gram = rows.T @ rows
            self._sum = gram if self._sum is None else self._sum.add_(gram)

    def eigen(self) -> tuple[Tensor, Tensor]:
        """((m, C, d) orthonormal eigenvectors, (m,) eigenvalues > 0) in float64, the largest first."""
        if self._sum is None:
            rows = torch.cat(self._rows)
            values, left = torch.linalg.eigh(rows @ rows.T)
        else:
            values, left = torch.linalg.eigh(self._sum)
        order = torch.arange(len(values) - 1, -1, -1, device=values.device)[: self._rank or None]
        order = order[values[order] > values[-1] * ROUNDING]
        values, left = values[order], left[:, order]
        vectors = left.T if self._sum is not None else (rows.T @ left / values.sqrt()).T
        return vectors.reshape(-1, *self._shape).contiguous(), values


def head_weights(head: nn.Module) -> Tensor:
    """(C, d): the weights of an answer head, what adapters add to them included."""
    kept = next(module for module in head.modules() if isinstance(module, nn.Linear))
    basis = torch.eye(kept.in_features, dtype=kept.weight.dtype, device=kept.weight.device)
    with torch.no_grad():
        weights: Tensor = (head(basis) - head(torch.zeros_like(basis[:1]))).T
    return weights


def log_evidence(values: Tensor, squares: float, precision: float) -> float:
    """-(log det P - P log precision + precision |W|^2) / 2: the evidence less the log likelihood at the mean."""
    return -0.5 * (float(torch.log1p(values.double() / precision).sum()) + precision * squares)


def best_precision(values: Tensor, squares: float) -> float:
    """The prior precision with the most evidence, given the eigenvalues of the curvature and |W|^2."""
    from scipy.optimize import minimize_scalar  # slow to import, and planning imports every method

    grid = np.linspace(math.log(SMALLEST), math.log(LARGEST), 201)
    scores = [log_evidence(values, squares, math.exp(point)) for point in grid]
    best = int(np.argmax(scores))
    ends = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(
        lambda point: -log_evidence(values, squares, math.exp(point)),
        bounds=ends,
        method="bounded",
        options={"xatol": 1e-6},
    )
    return math.exp(float(found.x))
