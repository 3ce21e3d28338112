"""What a method that tunes trains on, tunes on and is scored on have nothing in common, whatever the protocol."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support import plan, run_on_loaded
from torch import Tensor

from bench.data.protocol import PROTOCOLS
from bench.method import FitJob, Method, PredictJob, get_method, method_names
from bench.plan.grid import with_bases
from bench.plan.runs import families
from bench.posterior import Point, Posterior
from bench.run.runner import Runner
from bench.specs import FitSpec, RunSpec
from bench.store.store import Store

TUNING = [name for name in method_names() if get_method(name).tunes]
TASKS = ("notes_two", "colours")  # one with a labelled test split, and one without


class Seen:
    """The ids of the examples that each fit and the prediction of a run were handed, instead of any computation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained: dict[str, set[str]] = {}
        self.tuned: dict[str, set[str]] = {}
        self.scored: set[str] = set()
        self._patch = monkeypatch

    def compute(self, run: RunSpec, store: Path) -> None:
        for name in with_bases([run.method]):
            cls: Any = get_method(name)
            if cls.own_fit():
                self._patch.setattr(cls, "fit", self._fit)
            self._patch.setattr(cls, "predict", self._predict)
        (family,) = families([run])
        run_on_loaded(Runner(store=Store(store)), family)

    @property
    def _fit(self) -> Any:
        def fit(method: Method, job: FitJob) -> Posterior:
            self.trained[method.name] = {example.id for example in job.data.examples}
            if method.tunes:
                self.tuned[method.name] = {example.id for example in job.tuning.examples}
            return Point(job.model.snapshot())

        return fit

    @property
    def _predict(self) -> Any:
        def predict(method: Method, job: PredictJob) -> Tensor:
            self.scored = {example.id for example in job.examples}
            return torch.full((1, len(job.examples), len(job.answers)), -math.log(len(job.answers)))

        return predict


def test_there_are_methods_that_tune_with_and_without_a_base() -> None:
    assert {get_method(name).base is None for name in TUNING} == {True, False}


@pytest.mark.parametrize("share", [0.0, 0.25])  # with a share, as `bench tune` scores a candidate
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", TUNING)
def test_nothing_is_tuned_on_what_is_trained_on_or_scored(
    name: str, task: str, protocol: str, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = plan(name, task, protocol=protocol, tune_share=share)
    seen = Seen(monkeypatch)
    seen.compute(run, tmp_path)
    tuned = set.union(*seen.tuned.values())
    trained = set.union(*seen.trained.values())
    assert tuned and trained and seen.scored
    assert not tuned & trained
    assert not tuned & seen.scored
    assert not trained & seen.scored
    assert len(tuned) == sum(map(len, seen.tuned.values())), "two methods of a chain tune on different examples"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", TUNING)
def test_the_spec_says_what_a_fit_leaves_out(name: str, task: str, protocol: str) -> None:
    fit = plan(name, task, protocol=protocol).fit
    out = 0.0 if (task, protocol) == ("notes_two", "clean") else 0.1  # there, validation is free for tuning
    assert fit.reserved == pytest.approx(out)
    assert (fit.tuning, sum(base.holdout for base in fit.bases)) == ((out, 0) if not fit.bases else (0, out))


def test_other_fits_leave_out_what_the_protocol_sets_aside() -> None:
    fits: list[FitSpec] = [plan(name, "colours", protocol="clean").fit for name in ("adamw", "la_kfac", "ensemble")]
    assert {fit.reserved for fit in fits} == {0.1}
    assert {plan(name, "colours").fit.reserved for name in ("adamw", "la_kfac", "ensemble")} == {0.0}
