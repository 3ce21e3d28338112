"""Laplace approximations on AdamW's adapters, KFAC and diagonal. Yang et al. 2024, arXiv 2308.13111.

The posterior is N(m, P^-1) at AdamW's adapters m, with P = GGN + prior I. The GGN (= exact Fisher) of the cross-entropy
is summed over the whole training set, dropout off; the scalar prior precision maximises the Laplace evidence. The
predictive is linearised: logits ~ N(f(x), tau J P^-1 J^T), a C x C covariance, and the softmax is averaged over draws
of the logits.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from bench.data.batches import Batch
from bench.method import FitJob, PredictJob, Recipe, register_method
from bench.options import Fit, Predict
from bench.posterior import DiagGaussian, Params, Posterior
from bench.specs import TrainSpec
from bench.task import Task
from methods.diagonal import Diagonal
from methods.laplace.curvature import jacobians
from methods.laplace.kronecker import KroneckerGaussian
from methods.laplace.link import LINEARISED, Linked

MISSED = 0.5  # nats of evidence below its maximum that are worth a warning


@dataclass(frozen=True, kw_only=True)
class Laplace(Linked):
    """Common base of both: the data pass, the evidence, and the predictive."""

    base = "adamw"
    reads_maps = True

    subset: Annotated[Literal["all", "last"], Fit("uncertain adapters: all, or those of the last block")] = "all"
    prior_precision: Annotated[
        float, Fit("precision of the Gaussian prior; 0 maximises the evidence", ge=0, le=1e12)
    ] = 0.0
    evidence_steps: Annotated[int, Fit("steps of Adam on the log prior precision", ge=1, le=1_000_000)] = 100
    evidence_lr: Annotated[float, Fit("learning rate of those steps", ge=0, le=100)] = 0.1
    predictive: Annotated[Literal["linearised", "sampled"], Predict("Gaussian logits, or draws of the adapters")] = (
        "linearised"
    )
    draws: Annotated[
        int, Predict("sampled: draws of the adapters whose probabilities are averaged", ge=1, le=100_000)
    ] = 10
    tau: Annotated[float, Predict("scale of the covariance: 0 is the mean, 1 the posterior", ge=0, le=1e4)] = 1.0

    def check(self, task: Task, train: TrainSpec) -> None:
        if importlib.util.find_spec("laplace") is None:
            raise ValueError(f"{self.name} needs laplace-torch: pip install laplace-torch.")

    def fit(self, job: FitJob) -> Posterior:
        mean = job.starts[0].mean
        names = list(job.model.params) if self.subset == "all" else last_block(list(job.model.params))
        with job.model.assign(mean), job.model.at_ends():
            return self.approximate(job, names)

    def approximate(self, job: FitJob, names: Sequence[str]) -> Posterior:
        """The posterior at the model's present adapters, of which ``names`` are uncertain."""
        raise TypeError(f"{type(self).__qualname__} must define approximate(job, names).")

    def _prior(self) -> dict[str, Any]:
        return {"precision": self.prior_precision, "steps": self.evidence_steps, "lr": self.evidence_lr}

    def _report(self, job: FitJob, facts: dict[str, float]) -> None:
        """Store the facts of the prior; warn where the evidence is not at its maximum."""
        job.facts.update(facts)
        missed, slope = facts["log_evidence_missed"], facts["log_evidence_slope"]
        if not self.prior_precision and missed > MISSED:
            job.warnings.append(
                f"The prior precision {facts['prior_precision']:.3g} does not maximise the Laplace evidence: the slope "
                f"in log precision is {slope:.3g} there, about {missed:.2g} nats below the maximum. Raise "
                f"{self.name}.evidence_steps."
            )

    def narrowed(self, posterior: Posterior) -> Posterior:
        """The posterior to predict with, under this method's options."""
        return posterior

    def recipe(self, posterior: Posterior) -> Recipe:
        certain = not self.tau or not self.narrowed(posterior).uncertain
        return Recipe(otherwise="" if certain or self.predictive == "sampled" else LINEARISED)

    def draw(self, job: PredictJob) -> Iterable[Params]:
        posterior = self.narrowed(job.posterior)
        if not posterior.uncertain:
            return [posterior.mean]
        return posterior.draws(self.draws, job.generator, self.tau)

    def predict(self, job: PredictJob) -> Tensor:
        if not self.recipe(job.posterior).otherwise:
            return super().predict(job)
        model, posterior = job.model, self.narrowed(job.posterior).to(job.model.device)
        names = posterior.uncertain

        def moments(batch: Batch) -> tuple[Tensor, Tensor]:
            found, logits = jacobians(model, batch, names)
            with torch.no_grad():
                return logits, self.tau * posterior.covariance(found)

        with model.assign(posterior.mean):
            return self.linked(job, moments)


@register_method
@dataclass(frozen=True, kw_only=True)
class LaplaceDiag(Diagonal, Laplace):
    """Laplace with the diagonal of the GGN: P = diag(GGN) + prior I."""

    name = "la_diag"
    title = "LA (diag)"

    def approximate(self, job: FitJob, names: Sequence[str]) -> Posterior:
        from methods.laplace.laplace_torch import Passes, ReadOut, fit_diag

        passes = Passes(job.data, job.spec.train.batch_size, job.progress)
        variance, facts = fit_diag(ReadOut(job.model, job.model.params, names), passes, **self._prior())
        self._report(job, facts)
        mean = job.model.snapshot()
        known = {name: torch.zeros_like(value) for name, value in mean.items()}
        return DiagGaussian(mean, {**known, **variance})


@register_method
@dataclass(frozen=True, kw_only=True)
class LaplaceKfac(Laplace):
    """Laplace with Kronecker factors: P = G x A + prior I for each adapter matrix (methods.laplace.kronecker)."""

    name = "la_kfac"
    title = "LA (KFAC)"

    convention: Annotated[Literal["expand", "reduce"], Fit("how tokens that share a weight are summed")] = "expand"
    factor_rank: Annotated[int, Fit("rank kept of factors wider than it; 0 keeps them whole", ge=0)] = 0

    def approximate(self, job: FitJob, names: Sequence[str]) -> Posterior:
        from methods.laplace.laplace_torch import Passes, ReadOut, fit_kron

        passes = Passes(job.data, job.spec.train.batch_size, job.progress)
        read_out = ReadOut(job.model, job.model.params, names, self.factor_rank)
        found, facts = fit_kron(read_out, passes, self.convention, **self._prior())
        self._report(job, facts)
        prior = {"precision": torch.tensor(facts["prior_precision"], device=job.model.device)}
        return KroneckerGaussian(job.model.snapshot(), found.vectors, found.values, found.sides, prior)


def last_block(names: Sequence[str]) -> list[str]:
    """The adapters of the last block: those whose name has the largest block number (its first number)."""
    blocks = {name: int(found.group(1)) for name in names if (found := re.search(r"\.(\d+)\.", f".{name}."))}
    if not blocks:
        raise ValueError("The adapters' names have no block numbers, so there is no last block: use subset=all.")
    last = max(blocks.values())
    return [name for name, block in blocks.items() if block == last]
