"""Temperature scaling after any method: ``<name>_ts`` divides the log-probabilities of method ``<name>`` by one scalar.

Guo et al. 2017, arXiv 1706.04599; of the averaged probabilities of an ensemble or of posterior draws: "pool, then
calibrate", Rahaman and Thiery 2021, arXiv 2007.08792.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from bench.method import FitJob, Method, PredictJob, Recipe, derive_methods, log_softmax, recipe_of
from bench.options import Fit
from bench.posterior import Params, Posterior, pack, unpack
from bench.specs import FitSpec
from bench.task import get_task
from methods.temperature import BATCH, best_temperature, no_minimum

SUFFIX = "_ts"


@dataclass(frozen=True)
class Tempered(Posterior):
    """Another posterior, and under ``scale`` the ``temperature`` over which its predictions' logarithms are taken.

    Attributes:
        inner: the tensors of the other posterior, by ``field/name``.
        of: its kind -> an empty tensor.
    """

    kind = "tempered"
    inner: Params
    of: Params
    scale: Params

    @property
    def posterior(self) -> Posterior:
        """The other posterior."""
        (kind,) = self.of
        return unpack(kind, self.inner)

    @property
    def temperature(self) -> float:
        """T."""
        return float(self.scale["temperature"])

    @property
    def mean(self) -> Params:
        return self.posterior.mean

    def draws(self, count: int, generator: torch.Generator, tau: float = 1.0) -> Iterator[Params]:
        return self.posterior.draws(count, generator, tau)


@dataclass(frozen=True, kw_only=True)
class Scaled(Method):
    """softmax(log p / T), where p is another method's predictive and T minimises the NLL of the tuning examples.

    T depends on how the other method predicts, so all of its options are options of this fit. They are taken over from
    the other method's settings. The tuning examples are those of temperature scaling (methods/temperature.py).
    """

    tunes = True
    inner: ClassVar[type[Method]]

    def __post_init__(self) -> None:
        _ = self.method

    @property
    def method(self) -> Method:
        """The method whose predictions are scaled, with its options."""
        return self.inner.make({name: getattr(self, name) for name in self.inner.hyperparameters()})

    def check_fit(self, fit: FitSpec) -> None:
        base = fit.bases[0]
        for name, one in self.inner.hyperparameters().items() if base.method == self.inner.name else ():
            value = base.options.get(name, one.default)
            if one.reader == "fit" and getattr(self, name) != value:
                raise ValueError(
                    f"{self.name}.{name} is {getattr(self, name)} and {base.method}.{name} is {value}: {self.name} "
                    f"scales the predictions of {base.method}'s own fit, so set {base.method}.{name} alone."
                )

    def fit(self, job: FitJob) -> Posterior:
        start = job.starts[0]
        told = PredictJob(
            posterior=start,
            examples=job.tuning.examples,
            answers=get_task(job.spec.data.task).answers,
            generator=job.generator,
            batch_size=BATCH,
            load=job.load,
            max_length=job.spec.train.max_length,
            _encoded=job.tuning,
        )
        logits = mixed(self.method.predict(told))
        labels = torch.tensor([example.label for example in job.tuning.examples])
        found = best_temperature(logits, labels)
        job.facts.update(temperature=found, tuning_examples=len(labels))
        if problem := no_minimum(found, logits, labels):
            job.warnings.append(f"The temperature {found:.3g} means little: {problem}.")
        temperature = torch.tensor(found, dtype=torch.float64)
        return Tempered(pack(start), {start.kind: torch.zeros(0)}, {"temperature": temperature})

    def predict(self, job: PredictJob) -> Tensor:
        log_probs = mixed(self.method.predict(self._inside(job)))
        return log_softmax(log_probs / self._own(job.posterior).temperature).unsqueeze(0)

    def draw(self, job: PredictJob) -> Iterable[Params]:
        """The adapter values that the other method predicts with."""
        return self.method.draw(self._inside(job))

    def recipe(self, posterior: Posterior) -> Recipe:
        own = self._own(posterior)
        inner = recipe_of(self.method, own.posterior)
        divisor = inner.temperature_of_average * own.temperature
        return dataclasses.replace(inner, temperature_of_average=divisor)

    def _own(self, posterior: Posterior) -> Tempered:
        if not isinstance(posterior, Tempered):
            raise TypeError(f"{self.name} predicts with its own posterior, not with a {posterior.kind}.")
        return posterior

    def _inside(self, job: PredictJob) -> PredictJob:
        """The job as the other method gets it."""
        return dataclasses.replace(job, posterior=self._own(job.posterior).posterior)


def mixed(log_probs: Tensor) -> Tensor:
    """(N, C) float64 logarithms of the averaged probabilities of (S, N, C) log-probabilities."""
    exact = log_probs.double()
    return exact.logsumexp(0) - math.log(len(exact))


@derive_methods(SUFFIX)
def scaled(cls: type[Method]) -> type[Method] | None:
    """NAME, with its log-probabilities divided by one temperature.

    There is none of a method that is scaled already.
    """
    if issubclass(cls, Scaled):
        return None
    options: list[tuple[str, Any, Any]] = []
    for name, one in cls.hyperparameters().items():
        marker = Fit(**{field.name: getattr(one.marker, field.name) for field in dataclasses.fields(one.marker)})
        options.append((name, Annotated[one.type, marker], dataclasses.field(default=one.default)))
    own = {
        "name": cls.name + SUFFIX,
        "title": f"{cls.title} + T",
        "base": cls.name,
        "settings_of": cls.name,
        "uses_model": cls.uses_model,
        "reads_maps": cls.reads_maps,
        "inner": cls,
        "__doc__": f"Temperature scaling of {cls.name}. {Scaled.__doc__}",
        "__module__": __name__,
    }
    called = f"{cls.__name__}Scaled"
    return dataclasses.make_dataclass(called, options, bases=(Scaled,), namespace=own, frozen=True, kw_only=True)
