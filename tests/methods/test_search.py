"""The search for the largest allowed sd: against closed forms, and on the tuning examples of a real fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support import compute
from support import plan_few as plan
from torch import Tensor

from bench.method import get_method
from bench.posterior import DiagGaussian
from methods import search
from methods.isotropic import Isotropic
from methods.search import largest_allowed


@pytest.mark.parametrize("edge", [3e-3, 0.02, 0.7])
@pytest.mark.parametrize("width", [0.05, 0.01])
def test_bisection_ends_just_below_the_edge(edge: float, width: float) -> None:
    asked: list[float] = []
    found = largest_allowed(lambda x: asked.append(x) or x <= edge, 1e-3, 1.0, width)  # type: ignore[func-returns-value]
    assert edge / (1 + width) <= found.value <= edge and found.end == ""
    assert found.evaluations == len(asked) == len(set(asked))


def test_a_range_that_binds_is_named() -> None:
    assert largest_allowed(lambda x: True, 0.1, 1.0, 0.05) == (1.0, 1, "largest")
    assert largest_allowed(lambda x: False, 0.1, 1.0, 0.05) == (0.1, 2, "smallest")
    assert largest_allowed(lambda x: math.nan <= 1, 0.1, 1.0, 0.05).end == "smallest"


class Job:
    """A fit's argument without a model: the loss of its one tuning example is ``nll(params)``."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(3)
        self.facts: dict[str, Any] = {}
        self.warnings: list[str] = []


def quadratic(monkeypatch: pytest.MonkeyPatch, curvature: float, floor: float, d: int = 4000) -> DiagGaussian:
    """NLL(theta) = floor + curvature / 2 |theta|^2 / d, around the mean 0 of N(0, I)."""

    def log_probs(job: Any, params: dict[str, Tensor], data: Any) -> Tensor:
        nll = floor + curvature / 2 * params["w"].double().square().mean()
        return torch.stack([-nll, torch.log1p(-torch.exp(-nll))]).unsqueeze(0)

    monkeypatch.setattr(search, "tuning_log_probs", log_probs)
    monkeypatch.setattr(search, "tuning_labels", lambda data: torch.tensor([0]))
    monkeypatch.setattr(search, "anchors", lambda job, count: None)
    return DiagGaussian({"w": torch.zeros(d)}, {"w": torch.ones(d)})


@pytest.mark.parametrize(
    ("rise", "epsilon", "allowed"), [("nats", 0.02, 0.02), ("relative", 0.1, 0.05), ("change", 0.1, 0.05)]
)
def test_the_sd_is_the_closed_form_of_a_quadratic(
    monkeypatch: pytest.MonkeyPatch, rise: str, epsilon: float, allowed: float
) -> None:
    """The mean loss rises by curvature sd^2 / 2 for d weights of curvature ``curvature`` / d each."""
    unit, job = quadratic(monkeypatch, curvature=40.0, floor=0.5), Job()
    options = {"rise": rise, "epsilon": epsilon, "search_draws": 20, "width": 0.005}
    sd = Isotropic.make(options).widest(job, unit)  # type: ignore[arg-type]
    assert sd == pytest.approx(math.sqrt(2 * allowed / 40.0), rel=0.02)
    assert job.facts["sd"] == sd and not job.warnings
    assert 0.95 * allowed < job.facts["tuning_rise"] <= allowed
    assert job.facts["tuning_loss"] == pytest.approx(0.5)


@pytest.mark.parametrize(("rise", "sd"), [("change", math.sqrt(2 * 0.05 / 0.4)), ("relative", 1.0)])
def test_a_loss_that_falls_is_allowed_unless_its_change_is_judged(
    monkeypatch: pytest.MonkeyPatch, rise: str, sd: float
) -> None:
    unit, job = quadratic(monkeypatch, curvature=-0.4, floor=0.5), Job()
    found = Isotropic.make({"rise": rise, "epsilon": 0.1, "width": 0.005}).widest(job, unit)  # type: ignore[arg-type]
    assert found == pytest.approx(sd, rel=0.02)


def test_all_values_are_judged_by_the_same_normals(monkeypatch: pytest.MonkeyPatch) -> None:
    unit, seen = quadratic(monkeypatch, curvature=40.0, floor=0.5), []
    inner = search.tuning_log_probs
    monkeypatch.setattr(
        search, "tuning_log_probs", lambda job, params, data: seen.append(params["w"]) or inner(job, params, data)
    )
    Isotropic.make({"search_draws": 1}).widest(Job(), unit)  # type: ignore[arg-type]
    directions = [w / w.norm() for w in seen[1:]]
    assert len(directions) > 5
    for other in directions[1:]:
        torch.testing.assert_close(other, directions[0])


@pytest.mark.parametrize(
    ("curvature", "said"), [(1e-9, r"raise isotropic\.largest"), (1e12, r"lower isotropic\.smallest")]
)
def test_a_range_that_binds_is_warned_of(monkeypatch: pytest.MonkeyPatch, curvature: float, said: str) -> None:
    unit, job = quadratic(monkeypatch, curvature=curvature, floor=0.5), Job()
    sd = Isotropic().widest(job, unit)  # type: ignore[arg-type]
    assert sd == {1e-9: 1.0, 1e12: 1e-4}[curvature]
    (sentence,) = job.warnings
    assert said.replace("\\", "") in sentence


def test_the_loss_of_the_mixture_and_the_accuracy_are_what_they_say() -> None:
    log_probs = torch.tensor([[[0.9, 0.1], [0.4, 0.6]], [[0.5, 0.5], [0.8, 0.2]]], dtype=torch.float64).log()
    labels = torch.tensor([0, 1])

    def loss(**options: str) -> float:
        return Isotropic.make(options)._loss(log_probs, labels)

    assert loss() == pytest.approx(-sum(map(math.log, (0.9, 0.6, 0.5, 0.2))) / 4)
    assert loss(judged="mixture") == pytest.approx(-(math.log(0.7) + math.log(0.4)) / 2)
    assert loss(rise="accuracy") == 0.25
    assert loss(rise="accuracy", judged="mixture") == 0.5


def test_isotropic_keeps_adamws_mean_and_one_sd_within_the_allowed_rise(tmp_path: Path) -> None:
    settings: Any = {"adamw": {"lr": 1e-2}, "steps": 30, "isotropic": {"epsilon": 0.01, "search_draws": 3, "draws": 2}}
    run, base = (plan(name, protocol="clean", **settings) for name in ("isotropic", "adamw"))
    store = compute(run, tmp_path)
    posterior, facts = store.posterior(run.fit), store.fit_facts(run.fit)
    assert isinstance(posterior, DiagGaussian)
    mean = store.posterior(base.fit).mean
    assert all(torch.equal(posterior.mean[name], mean[name]) for name in mean)
    (variance,) = {float(value) for part in posterior.variance.values() for value in part.unique()}
    found = facts["diagnostics"]
    assert variance == pytest.approx(found["sd"] ** 2) and 1e-4 < found["sd"] < 1
    assert 0 < found["tuning_rise"] <= 0.01 * found["tuning_loss"] and found["tuning_examples"] == 6
    zero = plan("isotropic", protocol="clean", **{**settings, "isotropic": {**settings["isotropic"], "tau": 0}})
    assert (compute(zero, tmp_path).predictions(zero)["log_probs"] == compute(base, tmp_path).predictions(base)[
        "log_probs"]).all()  # fmt: skip


def test_a_few_anchors_judge_and_the_same_ones_each_time(tmp_path: Path) -> None:
    options = {"search_draws": 1, "width": 1.0, "draws": 1}
    found = {}
    for count in (0, 4, 6, 500):
        run = plan("isotropic", protocol="clean", isotropic=options | {"anchors": count})
        facts = compute(run, tmp_path / str(count)).fit_facts(run.fit)["diagnostics"]
        found[count] = (facts["tuning_examples"], facts["tuning_loss"])
    assert [found[count][0] for count in (0, 4, 6, 500)] == [6, 4, 6, 6]
    assert found[0] == found[6] == found[500] and found[4][1] != found[0][1]
    assert "anchors" not in plan("isotropic", protocol="clean").fit.options  # at its default it is in no key


def test_an_empty_range_gets_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"isotropic\.smallest is 1 and isotropic\.largest 0\.5: the range is empty"):
        get_method("isotropic").make({"smallest": 1.0, "largest": 0.5})
