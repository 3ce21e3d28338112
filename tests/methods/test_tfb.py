"""TFB: the function it keeps, the covariance it has, and the sd it finds."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support import compute
from support import plan_few as plan
from tiny import CPU, FAMILIES, drawn, examples, fit_job, lora, one_batch, predict_job, saved

from bench.method import get_method
from bench.model.choice_model import load_model
from bench.posterior import DiagGaussian, Point
from methods import search
from methods.tfb import Tfb, in_range_of_b

A, B = "x.lora_A.weight", "x.lora_B.weight"


def adapter(out: int, r: int, dead: int = 0, seed: int = 0) -> dict[str, torch.Tensor]:
    """A (r, 5) and B (out, r) of rank r - ``dead``."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(r, 5, generator=generator), torch.randn(out, r, generator=generator)
    for column in range(dead):
        b[:, column] = b[:, -1]
    return {A: a, B: b}


@pytest.mark.parametrize(("out", "r", "dead"), [(7, 3, 0), (7, 3, 1), (2, 4, 0), (4, 4, 0), (1, 3, 0)])
def test_the_update_is_unchanged_and_the_dead_directions_have_no_variance(out: int, r: int, dead: int) -> None:
    params = adapter(out, r, dead)
    found = in_range_of_b(params)
    torch.testing.assert_close(found.mean[B] @ found.mean[A], params[B] @ params[A], rtol=1e-5, atol=1e-5)
    assert found.mean[A].shape == params[A].shape and found.mean[B].shape == params[B].shape
    alive = min(out, r - dead)
    assert B not in found.variance and found.variance[A].shape == params[A].shape
    d = torch.linalg.svdvals(params[B].double())[:alive]
    torch.testing.assert_close(found.variance[A][:alive, 0].double(), d**-2, rtol=1e-5, atol=0)
    assert not found.variance[A][alive:].any() and bool((found.variance[A] == found.variance[A][:, :1]).all())


@pytest.mark.parametrize(("out", "r", "dead"), [(6, 3, 0), (6, 3, 1), (2, 4, 0)])
def test_draws_are_isotropic_in_the_range_of_b(out: int, r: int, dead: int) -> None:
    """Columns of the update are independent with covariance sd^2 P, P the projection on the range of B."""
    params, sd, count = adapter(out, r, dead), 0.3, 20_000
    unit = in_range_of_b(params)
    drawn_ones = unit.draws(count, torch.Generator().manual_seed(1), tau=sd**2)
    a, b = (torch.stack(values) for values in zip(*((draw[A], draw[B]) for draw in drawn_ones), strict=True))
    noise = (b @ a).double() - (params[B] @ params[A]).double()
    flat = noise.transpose(1, 2).flatten(1)  # column by column
    basis = torch.linalg.svd(params[B].double()).U[:, : min(out, r - dead)]
    expected = sd**2 * torch.block_diag(*[basis @ basis.T] * 5)
    torch.testing.assert_close(flat.T @ flat / count, expected, rtol=0, atol=4 * sd**2 * math.sqrt(2 / count))


def test_the_sd_is_the_closed_form_of_a_loss_that_is_quadratic_in_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """NLL = floor + c/2 |B A - B0 A0|^2 rises by c/2 sd^2 in rank(B) on average."""
    params = {A: torch.randn(3, 400, generator=torch.Generator().manual_seed(0)), B: adapter(7, 3)[B]}
    curvature, floor = 0.01, 0.5

    def log_probs(job: Any, values: Any, data: Any) -> torch.Tensor:
        change = values[B].double() @ values[A].double() - params[B].double() @ params[A].double()
        nll = floor + curvature / 2 * change.square().sum()
        return torch.stack([-nll, torch.log1p(-torch.exp(-nll))]).unsqueeze(0)

    class Job:
        generator = torch.Generator().manual_seed(3)
        facts: dict[str, Any] = {}
        warnings: list[str] = []
        starts = (Point(params),)

    monkeypatch.setattr(search, "tuning_log_probs", log_probs)
    monkeypatch.setattr(search, "tuning_labels", lambda data: torch.tensor([0]))
    monkeypatch.setattr(search, "anchors", lambda job, count: None)
    method = Tfb.make({"rise": "nats", "epsilon": 0.02, "search_draws": 20, "width": 0.005})
    found = method.fit(Job())  # type: ignore[arg-type]
    sd = math.sqrt(2 * 0.02 / curvature / (400 * 3))
    assert Job.facts["sd"] == pytest.approx(sd, rel=0.03) and not Job.warnings
    assert isinstance(found, DiagGaussian)
    torch.testing.assert_close(found.variance[A], in_range_of_b(params).variance[A] * Job.facts["sd"] ** 2)


@pytest.mark.parametrize("family", ["gpt2", "opt", "gemma2", "qwen2"])
def test_every_family_keeps_its_function(family: str, tmp_path: Path) -> None:
    options, targets = FAMILIES[family]
    model = load_model(lora([*targets, "head"]), saved(family, options), CPU)
    model.prepare(("A", "B"), 0)
    start = drawn(model)
    encoded = model.encode(examples(), 320)
    job = dataclasses.replace(fit_job(model, tmp_path), starts=(Point(start),), encode_tuning=lambda: encoded)
    tfb = Tfb(search_draws=2, predictive="flipout", draws=3)
    posterior = tfb.fit(job)
    assert isinstance(posterior, DiagGaussian) and posterior.uncertain
    batch = one_batch(model)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(batch, posterior.mean), model.logits(batch, start), rtol=0, atol=1e-4)
    assert tfb.predict(predict_job(model, posterior)).shape == (3, 4, 2)


def test_every_base_predicts_as_before_without_a_variance(tmp_path: Path) -> None:
    bases = {name: get_method(name).base for name in ("tfb", "tfb_map", "tfb_swa", "tfb_ivon", "tfb_blob")}
    assert list(bases.values()) == ["adamw", "map", "swa", "ivon_mean", "blob_mean"]
    settings = {name: {"lr": 3e-2} for name in ("adamw", "map", "swa", "blob")} | {"ivon": {"lr": 1.0}}
    name, base = "tfb_blob", "blob_mean"  # the others differ in one attribute
    options = {"tau": 0, "draws": 2, "search_draws": 1, "width": 1.0}
    run = plan(name, protocol="clean", **settings, **{name: options})
    plain = plan(base, protocol="clean", **settings)
    one, other = (torch.from_numpy(compute(each, tmp_path).predictions(each)["log_probs"]) for each in (run, plain))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_adapters_that_learned_nothing_are_named(tmp_path: Path) -> None:
    run = plan("tfb", protocol="clean", adamw={"lr": 0})
    store = compute(run, tmp_path)
    (said,) = store.fit_facts(run.fit)["warnings"]
    assert "B is 0 in every adapter of adamw" in said
    assert not store.posterior(run.fit).uncertain  # type: ignore[attr-defined]


def test_adapters_that_are_not_plain_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this method handles linear maps only"):
        compute(plan("tfb", lora={"variant": "dora"}), tmp_path)
