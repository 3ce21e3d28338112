"""What a method leaves behind in its process changes no later row: AdamW's bytes are those of a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import plan_few, result_bytes

from bench.method import get_method
from bench.model.choice_model import ChoiceModel
from bench.plan.runs import families
from bench.run.runner import Runner
from bench.store.store import Store


def host(model: ChoiceModel) -> Any:
    return next(iter(model.adapters.values())).host


def other_rate(model: ChoiceModel) -> None:
    for module in model._base.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.9


def noise_on_the_base(model: ChoiceModel) -> None:
    with torch.no_grad():
        model._base.get_submodule("model.layers.1.mlp.up_proj").weight.add_(0.01)


LEFTOVERS: dict[str, Callable[[ChoiceModel], Any]] = {
    "hook on tensors": lambda m: [p.register_hook(lambda gradient: 3 * gradient) for p in m.params.values()],
    "hook on a module": lambda m: host(m).register_forward_hook(lambda module, args, out: 2 * out),
    "scaling": lambda m: host(m).scaling.update(default=9.0),
    "dropout rate": other_rate,
    "removed parameter": lambda m: m.params.pop(next(iter(m.params))),
    "default dtype": lambda m: torch.set_default_dtype(torch.float64),
    "threads": lambda m: torch.set_num_threads(torch.get_num_threads() + 1),
    "weights of the base": noise_on_the_base,
}


def computed(runs: Path, *methods: str, seed: int = 1) -> Store:
    """One process, one model: the families of ``methods`` in their order."""
    runner = Runner(store=Store(runs))
    for method in methods:
        (family,) = families([plan_few(method, seed=seed)])
        runner.run(family)
    return Store(runs)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return result_bytes(computed(tmp_path_factory.mktemp("alone"), "adamw"), plan_few("adamw"))


@pytest.mark.parametrize("name", LEFTOVERS)
def test_what_a_fit_leaves_behind_changes_no_later_row(
    name: str, alone: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = get_method("map").fit

    def leave(self: Any, job: Any) -> Any:
        posterior = fit(self, job)
        LEFTOVERS[name](job.model)
        return posterior

    monkeypatch.setattr(get_method("map"), "fit", leave)
    assert result_bytes(computed(tmp_path, "map", "adamw"), plan_few("adamw")) == alone


@pytest.mark.parametrize("name", ["hook on a module", "dropout rate", "removed parameter"])
def test_what_a_prediction_leaves_behind_changes_no_later_row(
    name: str, alone: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(self: Any, job: Any) -> Any:
        log_probs = job.log_probs(job.posterior.mean).unsqueeze(0)
        LEFTOVERS[name](job.model)
        return log_probs

    monkeypatch.setattr(get_method("zero_shot"), "predict", leave)
    assert result_bytes(computed(tmp_path, "zero_shot", "adamw"), plan_few("adamw")) == alone


def test_a_fit_that_fails_leaves_nothing_behind_either(
    alone: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(self: Any, job: Any) -> Any:
        for name in ("hook on a module", "default dtype", "weights of the base"):
            LEFTOVERS[name](job.model)
        raise ZeroDivisionError

    monkeypatch.setattr(get_method("map"), "fit", leave)
    runner = Runner(store=Store(tmp_path))
    (broken,), (fine,) = families([plan_few("map")]), families([plan_few("adamw")])
    with pytest.raises(ZeroDivisionError):
        runner.run(broken)
    runner.run(fine)
    assert result_bytes(Store(tmp_path), plan_few("adamw")) == alone


HOOKING = {
    "blob": {"draws": 2, "predictive": "flipout"},
    "tfb": {"draws": 2, "predictive": "flipout", "search_draws": 1},
    "scalabl": {"predictive": "linearised"},
}


@pytest.mark.parametrize("name", HOOKING)
def test_a_method_that_hooks_the_adapters_maps_leaves_nothing_behind(
    name: str, alone: dict[str, bytes], tmp_path: Path
) -> None:
    runner = Runner(store=Store(tmp_path))
    hooks: list[int] = []
    for run in (plan_few(name, **{name: HOOKING[name]}), plan_few("adamw")):
        (family,) = families([run])
        runner.run(family)
        assert runner._model is not None
        hooks.append(sum(len(a.linear._forward_hooks) for a in runner._model[1].adapters.values()))
    assert hooks == [0, 0]
    assert result_bytes(Store(tmp_path), plan_few("adamw")) == alone
