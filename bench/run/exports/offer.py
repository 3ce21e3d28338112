"""What an export offers: the posterior mean, draws, how to predict with them, and whose predictions these are not."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import NoReturn

import torch

from bench.method import PredictJob, Recipe, recipe_of
from bench.posterior import Lacks, Members, Params, Posterior
from bench.run.stored import Result
from bench.task import get_task


@dataclasses.dataclass(frozen=True)
class Offer:
    """Adapter values of a posterior: its ``mean``, None if it has none, ``draws``, and the ``recipe`` for them."""

    posterior: Posterior
    mean: Params | None
    draws: Sequence[Params]
    recipe: Recipe


class NeedsModel(ValueError):
    """A method that draws adapter values asked for the model, which an export does not load."""


def make_offer(result: Result, count: int, temperature: float | None) -> Offer:
    """The mean and ``count`` draws of a result; ``temperature`` takes the place of those that the method fitted.

    Raises:
        ValueError: the posterior has no adapters, no mean where no draws are asked for, or not so many draws.
    """
    posterior, method = result.posterior, result.method
    mean = _mean(posterior)
    if mean is not None and not mean:
        raise ValueError(
            f"The posterior of {result.key} holds no adapters: '{result.fit.method}' leaves the base as it is."
        )
    found = _drawn(result, posterior, mean, count or int(mean is None))
    if mean is None and not found:
        raise ValueError(
            f"The posterior of {result.key} has neither a mean nor draws of the adapters, so '{method.name}' has "
            "nothing to export."
        )
    if mean is None and not count:
        raise ValueError(f"A posterior of kind '{posterior.kind}' has no mean. Export draws of it with --draws N.")
    if len(found) < count:
        few = f"{len(found)}. Give no more than that."
        point = "1 value of the adapters, a point: there is nothing to draw. Leave --draws out."
        raise ValueError(f"--draws {count}: '{method.name}' has {few if found else point}")
    recipe = recipe_of(method, posterior) if temperature is None else Recipe(temperature=temperature)
    return Offer(posterior, mean, found, recipe)


def departure(result: Result, offer: Offer) -> str:
    """How the method of a result predicts ("averages ..."); "" if the offer's values and recipe do the same."""
    method = result.method
    recipe = recipe_of(method, offer.posterior)
    if recipe.otherwise:
        return f"predicts {recipe.otherwise}"
    if dataclasses.replace(recipe, otherwise=offer.recipe.otherwise) != offer.recipe:
        return f"takes the temperatures {recipe.temperature:.6g}, and {recipe.temperature_of_average:.6g} of averages"
    try:
        if offer.draws and _same(method.draw(_job(result, offer.posterior)), offer.draws):
            return ""
        at_mean = all(_equal(value, offer.mean) for value in method.draw(_job(result, offer.posterior)))
    except NeedsModel:
        return "averages the probabilities at adapter values that it draws with the model at hand"
    if at_mean:
        return "predicts with the mean adapter alone" if offer.draws else ""
    others = "other draws of the adapters, or another number of them" if offer.draws else "draws of the adapters"
    return f"averages the probabilities at {others}"


def _mean(posterior: Posterior) -> Params | None:
    with contextlib.suppress(Lacks):
        return posterior.mean
    return None


def _drawn(result: Result, posterior: Posterior, mean: Params | None, count: int) -> list[Params]:
    """The first ``count`` values that the method predicts with, or draws of the posterior where these are its mean.

    None at all if neither differs from the mean.
    """
    if not count:
        return []
    method = result.method
    options = method.options("fit") | method.options("predict")
    if "draws" in options:
        method = type(method).make({**options, "draws": count})
    with contextlib.suppress(Lacks):
        found = list(itertools.islice(method.draw(_job(result, posterior)), count))
        if found and not _equal(found[0], mean):
            return found
    if isinstance(posterior, Members):
        return list(itertools.islice(posterior, count))
    with contextlib.suppress(Lacks):
        tau = getattr(method, "tau", 1.0)
        found = list(posterior.draws(count, _job(result, posterior).generator, tau))
        return [value for value in found if not _equal(value, mean)]
    return []


def _job(result: Result, posterior: Posterior) -> PredictJob:
    """A job without examples, for methods that draw adapter values, with the generator of the result's predictions."""
    name = result.method.name

    def load() -> NoReturn:
        raise NeedsModel(f"'{name}' draws with the model at hand, which an export does not load: leave --draws out.")

    return PredictJob(
        posterior=posterior,
        examples=(),
        answers=get_task(result.fit.data.task).answers,
        generator=torch.Generator().manual_seed(result.seed),
        batch_size=1,
        load=load,
        max_length=result.fit.train.max_length,
    )


def _same(values: Iterable[Params], wanted: Sequence[Params]) -> bool:
    """Whether these are the values, one by one; none is made beyond the first that differs."""
    return all(one is not None and _equal(one, other) for one, other in itertools.zip_longest(values, wanted))


def _equal(one: Params, other: Params | None) -> bool:
    return other is not None and one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
