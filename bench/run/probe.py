"""A timed probe: every kind of fit and evaluation of a grid at two small sizes, in a store that is thrown away.

A cost is a line through its values at the two sizes, so that what happens once (loading a kernel, factorising a matrix)
is not multiplied. Training is measured by steps; what a method does with the examples, by their share: the training and
the tuning split are cut alike. Everything is computed by the code that computes a grid, with its settings.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from bench.data.protocol import HOLDOUT
from bench.data.splits import Split
from bench.errors import ModelNotUsable
from bench.process.progress import Progress
from bench.run.context import Context
from bench.run.evaluation import evaluate, read
from bench.run.examples import Data, Examples
from bench.run.fitting import fit as compute_fit
from bench.specs import DataSpec, FitSpec, ModelSpec, Option, RunSpec, key
from bench.store.store import Store
from bench.task import get_task

SIZES = ((16, 8), (32, 8), (96, 44))  # (examples, steps): one to warm up, two to measure
SETTLED = 12  # steps after which a training's pace is taken: it has recorded a step by then (bench.train.replay)
FEWEST = 4  # examples of a split


@dataclasses.dataclass(frozen=True)
class Line:
    """A cost of ``fixed + slope * size``."""

    fixed: float
    slope: float

    @classmethod
    def through(cls, first: tuple[float, float], second: tuple[float, float]) -> Line:
        """The line through two (size, cost) points; through the second alone if it would fall or be negative at 0."""
        (x1, y1), (x2, y2) = first, second
        slope = min(max(0.0, (y2 - y1) / (x2 - x1)), y2 / x2) if x2 > x1 else 0.0
        return cls(y2 - slope * x2, slope)

    def at(self, size: float) -> float:
        """The cost of a size."""
        return self.fixed + self.slope * size


@dataclasses.dataclass(frozen=True)
class FitCost:
    """Seconds of a fit: of training, by steps; of what follows it, of one mid-run evaluation, and of everything around
    (tokenising, checks, storing), by the share of the examples. Bytes of the posterior."""

    trains: bool
    step: Line
    after: Line
    watch: Line
    around: Line
    bytes: int


@dataclasses.dataclass(frozen=True)
class RunCost:
    """Seconds of an evaluation, from reading its examples to storing it, and bytes of its result; by examples."""

    seconds: Line
    bytes: Line


@dataclasses.dataclass(frozen=True)
class Costs:
    """Measurements: by kind of fit and of evaluation; peak memory in MiB of a process, or of the GPU; seconds until a
    worker is ready."""

    fits: Mapping[str, FitCost]
    runs: Mapping[str, RunCost]
    memory_mib: float
    start: float

    def __or__(self, other: Costs) -> Costs:
        """The measurements of two probes of one grid."""
        return Costs(
            {**self.fits, **other.fits},
            {**self.runs, **other.runs},
            max(self.memory_mib, other.memory_mib),
            max(self.start, other.start),
        )


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


def probe(like: Context, fits: Iterable[FitSpec], runs: Iterable[RunSpec], began: float | None = None) -> Costs:
    """Measure every kind among ``fits`` and ``runs``, which are of one protocol.

    ``like`` says how to compute; its store is not used. ``began`` is when this process was asked for, by
    ``time.monotonic()``; the start is timed from there to the loaded base.

    Raises:
        ModelNotUsable, ...: the base cannot be loaded, or a method fails.
    """
    asked = time.monotonic() if began is None else began
    kinds = {fit_kind(fit): fit for fit in fits}
    scored = {run_kind(run): run for run in runs}
    protocol = next(iter(scored.values())).protocol
    with tempfile.TemporaryDirectory(prefix="bench-plan-") as folder:
        sizes = [_Sized(like, Store(Path(folder, str(rows))), rows, steps, protocol) for rows, steps in SIZES]
        sizes[-1].prepared(next(iter(scored.values())).fit)()
        start = time.monotonic() - asked
        warm: set[str] = set()
        fit_costs, run_costs = {}, {}
        for kind, fit in kinds.items():
            *_, first, second = (sized.measure_fit(fit) for sized in _sharing(sizes, f"fit {fit.method}", warm))
            fit_costs[kind] = _fit_cost(first, second)
        for kind, run in scored.items():
            *_, (n1, s1, b1), (n2, s2, b2) = (
                sized.measure_run(run) for sized in _sharing(sizes, f"predict {run.method}", warm)
            )
            run_costs[kind] = RunCost(Line.through((n1, s1), (n2, s2)), Line.through((n1, b1), (n2, b2)))
    return Costs(fit_costs, run_costs, sizes[-1].memory_mib, start)


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


@dataclasses.dataclass(frozen=True)
class _FirstRows(Data):
    """The first examples of every split: ``rows`` of the training split and of those that are scored, and of the others
    the share of them that this is of the training split."""

    rows: int

    def share(self, data: DataSpec) -> float:
        """The share of the examples that is seen."""
        return min(1.0, self.rows / get_task(data.task).rows["train"])

    def split(self, data: DataSpec, name: str) -> Split:
        whole = super().split(data, name)
        count = max(FEWEST, math.ceil(len(whole.examples) * self.share(data)))
        return dataclasses.replace(whole, examples=whole.examples[:count])

    def scored(self, run: RunSpec) -> tuple[Examples, Split]:
        if run.split == HOLDOUT:
            return super().scored(run)
        whole = super().split(run.data, run.split)
        cut = dataclasses.replace(whole, examples=whole.examples[: self.rows])
        return cut.examples, cut


class _Sized(Context):
    """A context that sees about ``rows`` examples of every split, and trains ``steps`` steps at most."""

    def __init__(self, like: Context, store: Store, rows: int, steps: int, protocol: str) -> None:
        settings = {field.name: getattr(like, field.name) for field in dataclasses.fields(Context) if field.init}
        watched = steps if like.eval_every else 0  # twice: before the first step and after the last
        super().__init__(**{**settings, "store": store, "eval_every": watched, "checkpoint_seconds": math.inf})
        self.rows, self.steps, self.protocol = rows, steps, protocol
        self._planned: dict[str, int] = {}
        self.memory_mib = 0.0

    def measure_fit(self, fit: FitSpec) -> _Fit:
        """Compute a fit, after all that it starts from."""
        spec = self._shrunk(fit)
        for base in spec.bases:
            compute_fit(self, base, self.protocol, Progress())
        began, watched = time.perf_counter(), self.watch_seconds
        compute_fit(self, spec, self.protocol, Progress())
        whole, watched = time.perf_counter() - began, self.watch_seconds - watched
        facts = self.store.fit_facts(spec)
        memory = facts["peak_memory_mib"]
        self.memory_mib = max(self.memory_mib, memory["device"] or memory["host"])
        train, after = facts["seconds"]["train"], facts["seconds"]["posterior"]
        around = max(0.0, whole - train - after - watched)
        size = (self.store.folder(spec) / "posterior.safetensors").stat().st_size
        trains = facts["steps"] > 0
        step = self._step(spec, train) if trains else Line(0.0, 0.0)
        return _Fit(self._data.share(fit.data), trains, step, after, watched / 2, around, size)

    def _step(self, spec: FitSpec, seconds: float) -> Line:
        """The cost of a training by steps, from its own clock; what it does once is in the fixed part."""
        lines = (self.store.folder(spec) / "trace.jsonl").read_text().splitlines()
        clock = {row["step"]: row["seconds"] for row in map(json.loads, lines) if "loss" in row}
        settled = min(SETTLED, spec.train.steps)
        return Line.through((settled, clock[settled]), (spec.train.steps, seconds))

    def measure_run(self, run: RunSpec) -> tuple[int, float, int]:
        """(examples, seconds, bytes of the predictions) of an evaluation."""
        spec = dataclasses.replace(run, fit=self._shrunk(run.fit))
        compute_fit(self, spec.fit, spec.protocol, Progress())
        began = time.perf_counter()
        evaluate(self, spec, read(self, spec), Progress())
        seconds = time.perf_counter() - began
        size = (self.store.folder(spec) / "predictions.safetensors").stat().st_size
        return len(self.data.scored(spec)[0]), seconds, size

    def planned_steps(self, spec: FitSpec) -> int:
        """The steps of the fit that was cut short."""
        return self._planned[key(spec)]

    def warn(self, spec: FitSpec | RunSpec, sentence: str) -> None:
        """Nothing is shown: the sentences are about trainings that were cut short."""

    @functools.cached_property
    def data(self) -> Data:
        """The examples, cut short."""
        return self._data

    @functools.cached_property
    def _data(self) -> _FirstRows:
        return _FirstRows(self.source, self.rows)

    def _shrunk(self, fit: FitSpec) -> FitSpec:
        steps = min(self.steps, fit.train.steps)
        short = dataclasses.replace(
            fit, train=dataclasses.replace(fit.train, steps=steps), bases=tuple(map(self._shrunk, fit.bases))
        )
        self._planned[key(short)] = fit.train.steps
        return short


def _sharing(sizes: list[_Sized], what: str, warm: set[str]) -> Iterator[_Sized]:
    """The contexts in order, each with the base that the one before it has loaded; without the first, which warms up,
    if ``what`` is warm already."""
    wanted = sizes[1:] if what in warm else sizes
    warm.add(what)
    for before, sized in itertools.pairwise((sizes[-1], *wanted)):
        sized._model = before._model
        yield sized


@dataclasses.dataclass(frozen=True)
class _Fit:
    share: float
    trains: bool
    step: Line
    after: float
    watch: float
    around: float
    bytes: int


def _fit_cost(small: _Fit, large: _Fit) -> FitCost:
    def by_share(seconds: Callable[[_Fit], float]) -> Line:
        return Line.through((small.share, seconds(small)), (large.share, seconds(large)))

    return FitCost(
        trains=large.trains,
        step=large.step,
        after=by_share(lambda fit: fit.after),
        watch=by_share(lambda fit: fit.watch),
        around=by_share(lambda fit: fit.around),
        bytes=large.bytes,
    )
