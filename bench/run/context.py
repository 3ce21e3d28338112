"""The context of a computation: store, data, model, device and reporter."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench.data.splits import DataSource
from bench.method import Method, get_method
from bench.model.choice_model import ChoiceModel, load_model
from bench.model.identity import readable_name
from bench.model.own_adapter import adapter_values, no_adapter
from bench.model.placement import DeviceMap
from bench.posterior import Params
from bench.process.holder import SECONDS, Worker
from bench.run import codebase
from bench.run.examples import Data
from bench.run.isolation import isolated
from bench.run.provenance import device_name, provenance
from bench.run.seen import Seen
from bench.specs import FitSpec, ModelSpec, RunSpec, seed_for
from bench.store.facts import Attempt, Provenance
from bench.store.schema import load
from bench.store.store import Store
from bench.task import get_task

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Context:
    """Everything a run needs that is not part of what it is.

    Attributes:
        store: where results go.
        source: where rows come from.
        model_path: folder of a local model, or None.
        adapter_path: folder of the user's adapter, or None.
        device: where to compute.
        device_map: how the layers of the base are spread over devices, or None.
        eval_every: steps between mid-run evaluations (0: none). It changes nothing but the trace.
        graphs: train with CUDA graphs (bench.train.graphs). Same results up to rounding.
        compile: train with compiled layers (bench.model.forward.compiled). Same results up to rounding.
        recompute: gradient checkpointing (bench.model.forward.recompute). Same results.
        checkpoint_seconds: least time between checkpoints.
        track: names of trackers (bench.train.trackers).
        worker: who computes, for claims and records.
        claim_seconds: the life of a claim without a heartbeat.
        stop: the reason to stop, "" as long as there is none.
        watch_seconds: what mid-run evaluations have taken so far.
    """

    store: Store
    source: DataSource = dataclasses.field(default_factory=DataSource)
    model_path: Path | None = None
    adapter_path: Path | None = None
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    device_map: DeviceMap | None = None
    eval_every: int = 0
    graphs: bool = False
    compile: bool = False
    recompute: bool = False
    checkpoint_seconds: float = 30.0
    track: tuple[str, ...] = ()
    worker: Worker = dataclasses.field(default_factory=Worker)
    claim_seconds: float = SECONDS
    stop: Callable[[], str] = lambda: ""
    watch_seconds: float = dataclasses.field(default=0.0, init=False)
    _model: tuple[ModelSpec, ChoiceModel] | None = None

    @functools.cached_property
    def data(self) -> Data:
        """The examples of fits and evaluations."""
        return Data(self.source)

    @functools.cached_property
    def seen(self) -> Seen:
        """The rows that the store's results were computed on."""
        return Seen(self.store)

    def prepared(self, spec: FitSpec, answers: tuple[str, ...] | None = None) -> Callable[[], ChoiceModel]:
        """The model with fresh adapters and a task's answers, made ready at the first call."""

        def make() -> ChoiceModel:
            if self._model is None or self._model[0] != spec.model:
                self._model = None  # free the old base before the new one is loaded
                self._model = (spec.model, load_model(spec.model, self.model_path, self.device, self.device_map))
                for sentence in self._model[1].warnings:
                    logger.warning("%s", sentence)
            model = self._model[1]
            model.prepare(answers or get_task(spec.data.task).answers, seed_for(spec, "init"))
            return model

        return functools.lru_cache(maxsize=1)(make)

    def planned_steps(self, spec: FitSpec) -> int:
        """The steps of the training that a fit stands for: its own, unless this context cuts trainings short."""
        return spec.train.steps

    def use(self, spec: ModelSpec, model: ChoiceModel) -> None:
        """Compute on a model that is loaded already, as ``spec`` says."""
        self._model = spec, model

    def read_adapter(self, model: Callable[[], ChoiceModel]) -> Callable[[str], Params]:
        """A reader of the user's adapter for a prepared model."""
        path = self.adapter_path
        return no_adapter if path is None else lambda content: adapter_values(path, content, model())

    def forwards(self, model: ModelSpec) -> int:
        """Examples that the model has passed forward so far; 0 while it is not loaded."""
        return self._model[1].forwards if self._model is not None and self._model[0] == model else 0

    @contextmanager
    def method_at_work(self, method: Method) -> Iterator[None]:
        """Around a method's own code: what it leaves behind, in the process or the loaded model, is undone.

        A base whose weights it has changed is loaded again.
        """
        guard = self._model[1].guard() if self._model is not None else None
        try:
            with isolated():
                yield
        finally:
            if guard is not None and (changed := guard.restore()):
                logger.warning(
                    "%s has changed %d weights of the base, such as %s: the base is loaded again.",
                    method.name, len(changed), changed[0],
                )  # fmt: skip
                self._model = None

    def attempt(self) -> dict[str, Any]:
        """This process and its code, as records show them."""
        code = provenance(self.device, self.source)
        about = {"device": device_name(self.device), "commit": code["commit"], "dirty": code["dirty"]}
        return {**self.worker.describe(), **about}

    def this_attempt(self) -> Attempt:
        """The same as facts."""
        return load(Attempt, self.attempt())

    def provenance(self, spec: FitSpec | RunSpec) -> Provenance:
        """Provenance of a spec's numbers: this process, with the plug-ins that take part."""
        found: Provenance = load(Provenance, provenance(self.device, self.source))
        base = "" if self.model_path is None else readable_name(self.model_path)
        return dataclasses.replace(found, plugins=codebase.plugins(classes_of(spec)), base=base)

    def warn(self, spec: FitSpec | RunSpec, sentence: str) -> None:
        """Show a sentence about a fit or an evaluation."""
        fit = spec.fit if isinstance(spec, RunSpec) else spec
        logger.warning("%s on %s, seed %d: %s", spec.method, spec.data.task, fit.seed, sentence)


def classes_of(spec: FitSpec | RunSpec) -> list[type]:
    """The classes whose code takes part in a result: methods, from the one named to the root, and tasks."""
    found: list[type] = [get_method(spec.method), type(get_task(spec.data.task))]
    for before in (spec.fit,) if isinstance(spec, RunSpec) else spec.bases[:1]:
        found += classes_of(before)
    return found
