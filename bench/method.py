"""The interface every method implements: fit a posterior once, predict with it many times."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor

from bench.data.batches import Batch, Encoded
from bench.errors import BrokenPlugin
from bench.model.choice_model import ChoiceModel
from bench.model.forward import side_by_side
from bench.options import Hyperparameter, Reader, hyperparameters, make
from bench.posterior import Params, Posterior
from bench.registry import Registry
from bench.specs import FitSpec, Option, TrainSpec
from bench.task import Example, Task
from bench.train.loop import FitJob

__all__ = [
    "METHODS",
    "FitJob",
    "Method",
    "PredictJob",
    "Recipe",
    "derive_methods",
    "get_method",
    "is_method",
    "log_softmax",
    "method_names",
    "recipe_of",
    "register_method",
]


MANY = 128  # a prediction of as many examples is worth the trial of what a small base can skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to predict with adapter values alone: softmax(log(mean over values of softmax(logits / t)) / T).

    Attributes:
        temperature: t, of the logits at each value.
        temperature_of_average: T, of the averaged probabilities.
        otherwise: what the method does instead, as in "predicts with noise on every token"; "" if it does this, at the
            values of :meth:`Method.draw`.
    """

    temperature: float = 1.0
    temperature_of_average: float = 1.0
    otherwise: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """Base of all methods: a frozen dataclass of hyperparameters. Subclass, decorate with ``register_method``.

    A method with a ``base`` starts from that method's stored posterior. One that defines no ``fit`` borrows
    it unchanged, so adding it to a grid costs no training.

    Attributes:
        name: what the command line calls it.
        title: what tables call it.
        version: raise it when the method's numbers change: every key of the method changes with it.
        base: name of the method whose posterior it starts from, or None.
        settings_of: name of a method whose settings it takes over, as far as it has options of these names and no
            separate setting for them; or None.
        uses_model: whether it ever looks at the language model (the exact reference of a synthetic task does not).
        reads_maps: whether it hooks or differentiates the adapters' linear maps (``model.adapters``); the runner then
            checks before the training that each runs once per forward pass with one row per token. Hooks that need one
            row per prompt while it trains read ``batch.padded()``, for packed prompts share a row.
        tunes: whether its own fit reads ``job.tuning``, examples that its base has not seen and that are not reported.
        reads_adapter: whether its own fit reads an adapter of the user's (``--adapter``, then ``job.read_adapter``).
            Such a method is not listed, since it cannot run on its own.

    Hyperparameters are annotated fields: see :mod:`bench.options`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[int] = 1
    base: ClassVar[str | None] = None
    settings_of: ClassVar[str | None] = None
    uses_model: ClassVar[bool] = True
    reads_maps: ClassVar[bool] = False
    tunes: ClassVar[bool] = False
    reads_adapter: ClassVar[bool] = False

    def check(self, task: Task, train: TrainSpec) -> None:
        """Raise ValueError with a sentence if this method cannot do this task in this training. Before any work."""

    def check_fit(self, fit: FitSpec) -> None:
        """Raise ValueError with a sentence if this method cannot use the posterior of ``fit``. Before any work."""

    def bases(self, base: FitSpec) -> tuple[FitSpec, ...]:
        """The fits this method's own fit starts from, given its base's spec (an ensemble asks for several seeds)."""
        return (base,)

    def fit(self, job: FitJob) -> Posterior:
        """Train, or post-process ``job.starts``, into a posterior. Not called for a method that borrows its base's."""
        raise TypeError(f"Method '{self.name}' has no fit: define fit(job), or name a `base` whose posterior it uses.")

    def predict(self, job: PredictJob) -> Tensor:
        """(S, N, C) log-probabilities: S draws, N examples, C answers. The default evaluates :meth:`draw`.

        The draws are fixed for the whole evaluation set. A closed-form predictive returns S = 1.
        """
        drawn = job.log_probs_of_draws(_complete(draw, job, self.name) for draw in self.draw(job) or ())
        if not len(drawn):
            raise ValueError(f"{self.name}.draw gave no adapter values: return at least one.")
        return drawn

    def draw(self, job: PredictJob) -> Iterable[Params]:
        """The values of all adapters to predict with, draw by draw; the default is the posterior mean."""
        return [job.posterior.mean]

    def recipe(self, posterior: Posterior) -> Recipe:
        """How an exported ``posterior`` predicts. Override it with ``predict``: see :func:`recipe_of`."""
        return Recipe()

    @classmethod
    def own_fit(cls) -> bool:
        """Whether the class defines ``fit``, rather than borrowing its base's posterior."""
        return cls.fit is not Method.fit

    @classmethod
    def hyperparameters(cls) -> Mapping[str, Hyperparameter]:
        """The hyperparameters by name, in order.

        Raises:
            BrokenPlugin: one is not declared as :mod:`bench.options` shows, or has a name that is taken.
        """
        found = hyperparameters(cls)
        for name in found:
            if name in _TAKEN:
                raise BrokenPlugin(f"{cls.__qualname__}.{name}: the suite uses that name; choose another.")
        return found

    @classmethod
    def make(cls, values: Mapping[str, Any] = types.MappingProxyType({})) -> Self:
        """The method with ``values`` for some hyperparameters, each cast to its type, and defaults for the others.

        Raises:
            LookupError: a name that is not a hyperparameter, with the near miss.
            ValueError: a value of the wrong type or out of bounds.
        """
        return make(cls, cls.name, cls.hyperparameters(), values)

    def options(self, reader: Reader) -> dict[str, Option]:
        """Name to value of the hyperparameters that the fit (``"fit"``) or prediction (``"predict"``) reads.

        This is what specs hold: later hyperparameters (``since``) are in it unless they have their defaults.
        """
        values = {name: (one, getattr(self, name)) for name, one in self.hyperparameters().items()}
        return {name: value for name, (one, value) in values.items() if one.reader == reader and one.in_spec(value)}


def _complete(draw: Params, job: PredictJob, method: str) -> Params:
    """A draw, if it has a value for every adapter: the others would keep those of fresh, untrained ones.

    Raises:
        ValueError: it has not.
    """
    lacking = [name for name in job.model.params if name not in draw]
    if lacking:
        raise ValueError(
            f"{method}.draw gave no value for {len(lacking)} of {len(job.model.params)} adapters, such as "
            f"{lacking[0]}: give all, such as {{**job.posterior.mean, ...}}."
        )
    return draw


def recipe_of(method: Method, posterior: Posterior) -> Recipe:
    """A method's recipe; "otherwise" if its class, or one that it inherits from, overrides ``predict`` alone."""
    classes = type(method).__mro__
    predicts, says = (next(n for n, cls in enumerate(classes) if name in vars(cls)) for name in ("predict", "recipe"))
    return Recipe(otherwise="in a way of its own") if predicts < says else method.recipe(posterior)


_TAKEN = {"per_task", "inner", "method", *vars(Method), *Method.__annotations__}  # two are NAME_ts's own


@dataclasses.dataclass
class PredictJob:
    """Argument of :meth:`Method.predict`. Drawing from ``generator`` (CPU) is reproducible from the spec."""

    posterior: Posterior
    examples: tuple[Example, ...]
    answers: tuple[str, ...]
    generator: torch.Generator
    batch_size: int
    load: Callable[[], ChoiceModel]  # the model, loaded at the first call
    max_length: int
    progress: Callable[[int], None] = lambda done: None
    _encoded: Encoded | None = None
    batch_tokens: int = 0  # tokens per forward pass instead, in padded rows; 0: batch_size counts

    @property
    def model(self) -> ChoiceModel:
        """The model with the task's answers as its read-out."""
        return self.load()

    @property
    def encoded(self) -> Encoded:
        """The tokenised examples."""
        if self._encoded is None:
            self._encoded = self.model.encode(self.examples, self.max_length)
        return self._encoded

    def make_ready(self) -> None:
        """Load the model and tokenise the examples now, rather than at first use."""
        _ = self.encoded

    def over_batches(self, function: Callable[[Batch], Tensor]) -> Tensor:
        """(N, ...) on the CPU: ``function(batch) -> (B, ...)`` over all examples, put back in their order."""
        parts, places = [], []
        with self.model.at_ends() if len(self.encoded) >= MANY else contextlib.nullcontext():
            for rows, batch in self.encoded.in_order(self.batch_size, self.batch_tokens):
                parts.append(function(batch))
                places += rows
                self.progress(len(rows))
        inverse = torch.empty(len(places), dtype=torch.long)
        inverse[torch.tensor(places)] = torch.arange(len(places))
        return torch.cat(parts).cpu()[inverse]

    @torch.no_grad()
    def log_probs(self, params: Params) -> Tensor:
        """(N, C) log-probabilities of all examples with the adapters at ``params``."""
        with self.model.assign(params):
            return self.over_batches(lambda batch: log_softmax(self.model.logits(batch)))

    @torch.no_grad()
    def log_probs_of_draws(self, draws: Iterable[Params]) -> Tensor:
        """(S, N, C) log-probabilities of all examples for each of S draws: in turn, or side by side on a GPU."""
        found, waiting = list[Tensor](), iter(draws)
        for first in waiting:
            if not side_by_side.gains(self.model.device):
                found.append(self.log_probs(first))
                continue
            together = itertools.chain([first], itertools.islice(waiting, side_by_side.MOST_DRAWS - 1))
            # copies: a method may fill the same tensors for each draw
            found += self._together([{n: v.detach().clone() for n, v in draw.items()} for draw in together])
        return torch.stack(found) if found else torch.empty(0)

    def _together(self, draws: Sequence[Params]) -> Iterable[Tensor]:
        """(N, C) for each draw, as many draws in a pass as the memory for its tokens allows."""
        model = self.model
        if len(draws) == 1 or not side_by_side.alike(draws, model.adapters):
            return [self.log_probs(params) for params in draws]
        matrices = side_by_side.stack(model.adapters, draws)

        def one(batch: Batch) -> Tensor:
            count = max(1, side_by_side.MOST_TOKENS // batch.input_ids.numel())
            parts = []
            for start in range(0, len(draws), count):
                part = {name: value[start : start + count] for name, value in matrices.items()}
                held = min(count, len(draws) - start)
                with side_by_side.stacked(model.adapters, part, batch):
                    logits = model.logits(side_by_side.repeated(batch, held))
                parts.append(log_softmax(logits).reshape(held, len(batch), -1))
            return torch.cat(parts).transpose(0, 1)

        try:
            return self.over_batches(one).unbind(1)
        except side_by_side.NotRowWise:
            return [self.log_probs(params) for params in draws]


def log_softmax(logits: Tensor) -> Tensor:
    """float32 log-probabilities, normalised in float64 so that rows sum to one to rounding and none is -inf."""
    return logits.double().log_softmax(dim=-1).float()


M = TypeVar("M", bound=type[Method])


def register_method(cls: M) -> M:
    """Class decorator: make a :class:`Method` known under its ``name``.

    Raises:
        BrokenPlugin: the class breaks the interface, or its name is malformed or taken.
    """
    METHODS.add(cls, listed=not getattr(cls, "reads_adapter", False))
    return cls


def register_earlier_method(cls: M) -> M:
    """``register_method`` as plug-ins for version 0.1 import it, from bench.registry.

    A name that the suite took later stays the plug-in's, with a warning, unless a key could then mean either method.

    Raises:
        BrokenPlugin: the class breaks the interface, or its name is malformed or taken.
    """
    METHODS.add(cls, replaces=lambda new, old: _identity(new) != _identity(old))
    return cls


def _identity(cls: type[Method]) -> tuple[object, ...]:
    """Equal for two methods of one name only if their specs can be equal."""
    readers = {name: one.reader for name, one in cls.hyperparameters().items()}
    return cls.version, cls.base, cls.own_fit(), readers


Make = Callable[[type[Method]], type[Method] | None]


def derive_methods(suffix: str) -> Callable[[Make], Make]:
    """Decorator of a function that makes a method of a method: ``<name><suffix>`` is what it makes of ``name``.

    It works for every registered method, those of plug-ins too, for which the function does not return None.
    ``bench list methods`` does not list what is made.
    """

    def register(make: Make) -> Make:
        METHODS.derive(suffix, make)
        return make

    return register


def get_method(name: str) -> type[Method]:
    """The method class of that name.

    Raises:
        LookupError: there is no such method; the message names the near misses.
        BrokenPlugin: its bases do not exist, or go in a circle.
    """
    found = METHODS.get(name)
    for reference in ("base", "settings_of"):
        chain, cls = [name], found
        while (named := getattr(cls, reference)) is not None:
            if named in chain:
                circle = " -> ".join([*chain, named])
                raise BrokenPlugin(
                    f"The {_PLURAL[reference]} of method '{name}' go in a circle: {circle}. Correct one `{reference}`."
                )
            try:
                cls = METHODS.get(named)
            except LookupError as error:
                raise BrokenPlugin(f"{cls.__module__}.{cls.__qualname__}.{reference}: {error}") from error
            chain.append(cls.name)
    return found


_PLURAL = {"base": "bases", "settings_of": "settings"}


def is_method(name: str) -> bool:
    """Whether :func:`get_method` knows the name."""
    return name in METHODS


def method_names() -> list[str]:
    """All registered method names, sorted."""
    return METHODS.names()


def _validate(cls: type[Method], where: str) -> None:
    if not issubclass(cls, Method):
        raise BrokenPlugin(f"{where} is not a Method: derive it from bench.method.Method.")
    title = getattr(cls, "title", None)
    if not isinstance(title, str) or not title.strip() or not title.isprintable():
        raise BrokenPlugin(f"{where}: set `title` to what tables call the method; it is {title!r}.")
    if isinstance(cls.version, bool) or not isinstance(cls.version, int) or cls.version < 1:
        raise BrokenPlugin(f"{where}: set `version` to a whole number of at least 1; it is {cls.version!r}.")
    for reference in ("base", "settings_of"):
        if not isinstance(getattr(cls, reference), str | None):
            raise BrokenPlugin(
                f"{where}: set `{reference}` to the name of a method, or None; it is {getattr(cls, reference)!r}."
            )
    for flag in ("uses_model", "reads_maps", "tunes", "reads_adapter"):
        if not isinstance(getattr(cls, flag), bool):
            raise BrokenPlugin(f"{where}: set `{flag}` to True or False; it is {getattr(cls, flag)!r}.")


METHODS = Registry[Method]("method", "methods", _validate, [field.name for field in dataclasses.fields(TrainSpec)])
