"""Deep ensembles of adapters, and of SWAG posteriors. Lakshminarayanan et al. 2017, arXiv 1612.01474; for LoRA: Wang et
al. 2023, arXiv 2310.00035; MultiSWAG: Wilson and Izmailov 2020, arXiv 2002.08791.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch

from bench.method import FitJob, Method, PredictJob, register_method
from bench.options import Fit, Predict
from bench.posterior import LowRankGaussian, Members, Params, Posterior
from bench.specs import FitSpec, member


@dataclass(frozen=True, kw_only=True)
class Independent(Method):
    """Starts from ``members`` fits of its base: the family's own, and ordinary stored ones at derived seeds."""

    members: Annotated[int, Fit("independent trainings, M", ge=1, le=1000)] = 3

    def bases(self, base: FitSpec) -> tuple[FitSpec, ...]:
        return tuple(member(base, number) for number in range(self.members))


@register_method
@dataclass(frozen=True, kw_only=True)
class Ensemble(Independent):
    """M AdamW fits from independent seeds (adapters, batches, dropout), probabilities averaged."""

    name = "ensemble"
    title = "Ensemble"
    base = "adamw"

    def fit(self, job: FitJob) -> Posterior:
        return Members.of([start.mean for start in job.starts])

    def draw(self, job: PredictJob) -> Iterable[Params]:
        assert isinstance(job.posterior, Members)
        return job.posterior


@dataclass(frozen=True)
class LowRankMixture(Posterior):
    """M equally weighted :class:`LowRankGaussian`, their tensors stacked along a first axis."""

    kind = "low_rank_mixture"
    location: Params
    variance: Params
    deviations: Params

    @classmethod
    def of(cls, members: Sequence[Posterior]) -> LowRankMixture:
        """Stack Gaussians of one rank."""
        parts = {field.name: [getattr(member, field.name) for member in members] for field in dataclasses.fields(cls)}
        return cls(**{f: {n: torch.stack([v[n] for v in values]) for n in values[0]} for f, values in parts.items()})

    def __iter__(self) -> Iterator[LowRankGaussian]:
        for i in range(len(next(iter(self.location.values())))):
            parts = (self.location, self.variance, self.deviations)
            yield LowRankGaussian(*({name: stack[i] for name, stack in part.items()} for part in parts))


@register_method
@dataclass(frozen=True, kw_only=True)
class MultiSwag(Independent):
    """SWAG from M independent SWA fits: ``draws`` from each of their Gaussians, probabilities averaged."""

    name = "multi_swag"
    title = "MultiSWAG"
    version = 2
    base = "swa"

    draws: Annotated[int, Predict("posterior draws from each member", ge=1, le=100_000)] = 4
    tau: Annotated[float, Predict("scale of each member's covariance: 0 is an ensemble of means", ge=0, le=1e4)] = 1.0

    def fit(self, job: FitJob) -> Posterior:
        return LowRankMixture.of(job.starts)

    def draw(self, job: PredictJob) -> Iterable[Params]:
        assert isinstance(job.posterior, LowRankMixture)
        rounds = zip(*(gaussian.draws(self.draws, job.generator, self.tau) for gaussian in job.posterior), strict=True)
        for each in rounds:  # one of every member in turn, so that the first k draws are of all members too
            yield from each
