"""A timed probe: every kind of fit and evaluation of a grid at two small sizes, in a store that is thrown away.

A cost is a line through its values at the two sizes, so that what happens once (loading a kernel, factorising a matrix)
is not multiplied.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from bench.data.splits import Split
from bench.errors import ModelNotUsable
from bench.method import PredictJob, get_method
from bench.process.progress import Progress
from bench.run.context import Context
from bench.run.examples import Data
from bench.run.fitting import fit as compute_fit
from bench.specs import DataSpec, FitSpec, ModelSpec, Option, RunSpec, key, seed_for
from bench.store.store import Store
from bench.task import get_task

SIZES = ((16, 8), (32, 8), (96, 40))  # (examples, steps): one to warm up, two to measure


@dataclasses.dataclass(frozen=True)
class Line:
    """A cost of ``fixed + slope * size``."""

    fixed: float
    slope: float

    @classmethod
    def through(cls, first: tuple[float, float], second: tuple[float, float]) -> Line:
        """The line through two (size, cost) points; neither falling nor negative at 0."""
        (x1, y1), (x2, y2) = first, second
        slope = max(0.0, (y2 - y1) / (x2 - x1)) if x2 > x1 else 0.0
        return cls(max(0.0, y2 - slope * x2), slope)

    def at(self, size: float) -> float:
        """The cost of a size."""
        return self.fixed + self.slope * size


@dataclasses.dataclass(frozen=True)
class FitCost:
    """Seconds of training by steps, and of what follows by training examples; bytes of the posterior."""

    trains: bool
    step: Line
    after: Line
    bytes: int


@dataclasses.dataclass(frozen=True)
class RunCost:
    """Seconds of prediction and bytes of its result, by examples."""

    predict: Line
    bytes: Line


@dataclasses.dataclass(frozen=True)
class Costs:
    """Measurements: by kind of fit and of evaluation; seconds to tokenise an example, to publish a
    result, and to pass an example forward; peak memory of a process, or of the GPU."""

    fits: Mapping[str, FitCost]
    runs: Mapping[str, RunCost]
    encode: float
    publish: float
    forward: float
    memory_mib: float


def fit_kind(fit: FitSpec) -> str:
    """A name that fits of equal cost share: not the seed, the number of steps, or the values of real options."""
    plain = dataclasses.replace(
        fit,
        seed=0,
        holdout=0.0,
        train=dataclasses.replace(fit.train, steps=1),
        options={name: _coarse(value) for name, value in fit.options.items()},
        bases=(),
    )
    return " ".join([key(plain), *map(fit_kind, fit.bases)])


def run_kind(run: RunSpec) -> str:
    """A name that evaluations of equal cost share."""
    options = sorted((name, _coarse(value)) for name, value in run.options.items())
    return f"{run.method} {options} {run.data.task} {run.batch_size} {run.batch_tokens} {fit_kind(run.fit)}"


def _coarse(value: Option) -> Option:
    return float(value != 0) if isinstance(value, float) else value


def probe(like: Context, fits: Iterable[FitSpec], runs: Iterable[RunSpec]) -> Costs:
    """Measure every kind among ``fits`` and ``runs``, which are of one protocol.

    ``like`` says how to compute; its store is not used.

    Raises:
        ModelNotUsable, ...: the base cannot be loaded, or a method fails.
    """
    kinds = {fit_kind(fit): fit for fit in fits}
    scored = {run_kind(run): run for run in runs}
    protocol = next(iter(scored.values())).protocol
    with tempfile.TemporaryDirectory(prefix="bench-plan-") as folder:
        warm, small, large = (
            _Sized(like, _TimedStore(Path(folder, str(rows))), rows, steps, protocol) for rows, steps in SIZES
        )
        fit_costs, run_costs = {}, {}
        for kind, fit in kinds.items():
            _, first, second = (sized.measure_fit(fit) for sized in _sharing(warm, small, large))
            fit_costs[kind] = _fit_cost(first, second)
        for kind, run in scored.items():
            _, before, after = (sized.measure_run(run) for sized in _sharing(warm, small, large))
            run_costs[kind] = _run_cost(before, after)
    forward = min((cost.predict.slope for cost in run_costs.values() if cost.predict.slope > 0), default=0.0)
    return Costs(fit_costs, run_costs, large.encode_seconds, large.publish_seconds, forward, large.memory_mib)


def check_here(model: ModelSpec, path: Path | None) -> None:
    """A probe downloads nothing.

    Raises:
        ModelNotUsable: the files of a hub model are not in the cache.
    """
    from huggingface_hub import try_to_load_from_cache

    if model.id == "embedded" or path is not None:
        return
    if not isinstance(try_to_load_from_cache(model.id, "config.json", revision=model.revision), str):
        raise ModelNotUsable(
            f"{model.id} is not on this machine, and a plan downloads nothing. Fetch it with `hf download {model.id}`, "
            "or name a folder with --model."
        )


class _TimedStore(Store):
    """A store that knows how long a result takes to be published."""

    seconds = 0.0
    results = 0

    def publish(self, *arguments: Any) -> bool:
        began = time.perf_counter()
        try:
            return super().publish(*arguments)
        finally:
            self.seconds += time.perf_counter() - began
            self.results += 1


@dataclasses.dataclass(frozen=True)
class _FirstRows(Data):
    """The first ``rows`` examples of every split."""

    rows: int

    def split(self, data: DataSpec, name: str) -> Split:
        whole = super().split(data, name)
        return dataclasses.replace(whole, examples=whole.examples[: self.rows])


class _Sized(Context):
    """A context that sees the first ``rows`` examples of every split, and trains ``steps`` steps at most."""

    store: _TimedStore

    def __init__(self, like: Context, store: _TimedStore, rows: int, steps: int, protocol: str) -> None:
        settings = {field.name: getattr(like, field.name) for field in dataclasses.fields(Context) if field.init}
        super().__init__(**{**settings, "store": store, "eval_every": 0, "checkpoint_seconds": math.inf})
        self.rows, self.steps, self.protocol = rows, steps, protocol
        self.encoded, self.encoding, self.memory_mib = 0, 0.0, 0.0

    @property
    def encode_seconds(self) -> float:
        """Seconds to tokenise an example."""
        return self.encoding / max(1, self.encoded)

    @property
    def publish_seconds(self) -> float:
        """Seconds to publish a result."""
        return self.store.seconds / max(1, self.store.results)

    def measure_fit(self, fit: FitSpec) -> _Fit:
        """Compute a fit, and all it starts from."""
        spec = self._shrunk(fit)
        compute_fit(self, spec, self.protocol, Progress())
        facts = self.store.fit_facts(spec)
        memory = facts["peak_memory_mib"]
        self.memory_mib = max(self.memory_mib, memory["device"] or memory["host"])
        seconds = facts["seconds"]
        size = (self.store.folder(spec) / "posterior.safetensors").stat().st_size
        return _Fit(self.rows, facts["steps"], seconds["train"], seconds["posterior"], size)

    def measure_run(self, run: RunSpec) -> tuple[int, float, int]:
        """(examples, seconds, bytes of the predictions) of an evaluation."""
        spec = dataclasses.replace(run, fit=self._shrunk(run.fit))
        posterior = compute_fit(self, spec.fit, spec.protocol, Progress())
        examples, task = self.data.scored(spec)[0], get_task(spec.data.task)
        fit_options = spec.fit.options if spec.fit.method == spec.method else {}
        method = get_method(spec.method).make({**fit_options, **spec.options})
        job = PredictJob(
            posterior=posterior,
            examples=examples,
            answers=task.answers,
            generator=torch.Generator().manual_seed(seed_for(spec, "predict")),
            batch_size=spec.batch_size,
            batch_tokens=spec.batch_tokens,
            load=self.prepared(spec.fit, task.answers),
            max_length=spec.fit.train.max_length,
        )
        if method.uses_model:
            job.load()
            began = time.perf_counter()
            job.make_ready()
            self.encoding += time.perf_counter() - began
            self.encoded += len(examples)
        began = time.perf_counter()
        log_probs = method.predict(job)
        seconds = time.perf_counter() - began
        return len(examples), seconds, log_probs.numel() * log_probs.element_size()

    @functools.cached_property
    def data(self) -> Data:
        """The examples, cut short."""
        return _FirstRows(self.source, self.rows)

    def _shrunk(self, fit: FitSpec) -> FitSpec:
        steps = min(self.steps, fit.train.steps)
        return dataclasses.replace(
            fit, train=dataclasses.replace(fit.train, steps=steps), bases=tuple(map(self._shrunk, fit.bases))
        )


def _sharing(*runners: _Sized) -> Iterator[_Sized]:
    """The runners in order, each with the base that the one before it has loaded."""
    for before, runner in itertools.pairwise((runners[-1], *runners)):
        runner._model = before._model
        yield runner


@dataclasses.dataclass(frozen=True)
class _Fit:
    rows: int
    steps: int
    train: float
    after: float
    bytes: int


def _fit_cost(small: _Fit, large: _Fit) -> FitCost:
    return FitCost(
        trains=large.steps > 0,
        step=Line.through((small.steps, small.train), (large.steps, large.train)),
        after=Line.through((small.rows, small.after), (large.rows, large.after)),
        bytes=large.bytes,
    )


def _run_cost(small: tuple[int, float, int], large: tuple[int, float, int]) -> RunCost:
    (n1, s1, b1), (n2, s2, b2) = small, large
    return RunCost(Line.through((n1, s1), (n2, s2)), Line.through((n1, b1), (n2, b2)))
