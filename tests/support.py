"""Helpers that several test files share."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.cli.main import main
from bench.data.splits import DataSource
from bench.model.choice_model import ChoiceModel, load_model
from bench.plan.base_model import choose_model
from bench.plan.runs import families, plan_run
from bench.process.progress import Progress
from bench.run.runner import Runner
from bench.specs import Family, ModelSpec, RunSpec, key
from bench.store.store import Store

STEPS = 8
_LOADED: dict[ModelSpec, ChoiceModel] = {}  # the bases of this process; one computes many families on one


class Said(NamedTuple):
    """What a command printed."""

    stdout: str
    stderr: str


def bench(*arguments: str, cwd: Path, check: int | None = 0) -> Said:
    """The command in this process, which has loaded torch and transformers already; it must exit with ``check``."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    said = Said(out.getvalue(), err.getvalue())
    assert check in (status, None), said.stdout + said.stderr
    return said


def plan(method: str, task: str = "notes_two", seed: int = 1, **settings: Any) -> RunSpec:
    """A run of a few steps on the embedded base, scored on validation."""
    model, _ = choose_model({})
    extra = {name: settings.pop(name) for name in ("batch_size", "protocol", "tune_share") if name in settings}
    return plan_run(
        method, task, seed, settings={"steps": STEPS, **settings}, model=model, source=DataSource(), **extra
    )


def plan_few(method: str, task: str = "few_two", seed: int = 1, **settings: Any) -> RunSpec:
    """:func:`plan` on a task with few rows, where their number does not matter."""
    return plan(method, task, seed, **settings)


def compute(run: RunSpec, runs: Path, fresh: bool = False, **options: Any) -> Store:
    """Run one spec into a store; on a base that was just loaded if ``fresh`` or with ``options`` of the runner."""
    (family,) = families([run])
    if fresh or options:
        Runner(store=Store(runs), **options).run(family)
    else:
        run_on_loaded(Runner(store=Store(runs)), family)
    return Store(runs)


def run_on_loaded(runner: Runner, family: Family, progress: Progress | None = None) -> None:
    """Run a family on the embedded base that an earlier one used; a base that did not come through is let go."""
    spec = family.root.model
    model = _LOADED.pop(spec, None) or load_model(spec, None, torch.device("cpu"))
    runner.use(spec, model)
    runner.run(family, progress)
    if runner._model is not None:
        _LOADED[spec] = model


def result_bytes(store: Store, run: RunSpec) -> dict[str, bytes]:
    """The files of a run that must not depend on when, where or in how many attempts it was computed."""
    fit, done = store.folder(run.fit), store.folder(run)
    return {
        "posterior": (fit / "posterior.safetensors").read_bytes(),
        "predictions": (done / "predictions.safetensors").read_bytes(),
        "keys": (key(run) + key(run.fit)).encode(),
    }
