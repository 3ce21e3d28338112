"""Draws side by side predict what one draw after the other does; where they cannot, they are taken in turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from support import compute, plan
from tiny import CPU, drawn, examples
from torch import Tensor

from bench.method import PredictJob
from bench.model.choice_model import ChoiceModel, load_model
from bench.model.forward import side_by_side
from bench.posterior import Point
from bench.specs import LoraSpec, ModelSpec


@pytest.fixture
def _forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "gains", lambda device: True)


def model_of(**lora: object) -> ChoiceModel:
    model = load_model(ModelSpec(lora=dataclasses.replace(LoraSpec(), **lora)), None, CPU)
    model.prepare(("A", "B"), seed=1)
    return model


def job_of(model: ChoiceModel) -> PredictJob:
    return PredictJob(
        posterior=Point(model.snapshot()), examples=tuple(examples()), answers=("A", "B"),
        generator=torch.Generator(), batch_size=3, load=lambda: model, max_length=320,
    )  # fmt: skip


def in_turn(job: PredictJob, draws: list[dict[str, Tensor]]) -> Tensor:
    return torch.stack([job.log_probs(draw) for draw in draws])


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("q_proj", "head")])
@pytest.mark.parametrize("tokens", [16384, 200, 1], ids=["all draws", "some draws", "one draw"])
@pytest.mark.usefixtures("_forced")
def test_draws_side_by_side_predict_what_draws_in_turn_do(
    targets: tuple[str, ...], tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "MOST_TOKENS", tokens)
    monkeypatch.setattr(side_by_side, "MOST_DRAWS", 3)
    model = model_of(targets=targets)
    draws = [drawn(model, seed) for seed in range(5)]
    job, before = job_of(model), model.snapshot()
    found, wanted = job.log_probs_of_draws(iter(draws)), in_turn(job, draws)
    assert (wanted[0] - wanted[1]).abs().max() > 1e-2
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, model.params[name]) for name, value in before.items())
    assert not any("forward" in vars(place.linear) for place in model.adapters.values())


@pytest.mark.usefixtures("_forced")
def test_fewer_passes_of_the_same_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = model_of(), []
    logits = model.logits
    monkeypatch.setattr(model, "logits", lambda batch: sizes.append(len(batch)) or logits(batch))
    job_of(model).log_probs_of_draws([drawn(model, seed) for seed in range(5)])
    assert sizes == [15, 5]  # 4 prompts in batches of 3, 5 draws


@pytest.mark.usefixtures("_forced")
def test_draws_that_are_not_all_matrices_are_taken_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "stacked", None)
    model = model_of(variant="dora")
    draws = [drawn(model, seed) for seed in range(2)]
    job = job_of(model)
    assert torch.equal(job.log_probs_of_draws(draws), in_turn(job, draws))


@pytest.mark.usefixtures("_forced")
def test_maps_that_see_other_rows_are_taken_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    product = side_by_side._product
    monkeypatch.setattr(side_by_side, "_product", lambda weights, counts: product(weights, {-1}))
    draws = [drawn(model, seed) for seed in range(2)]
    job = job_of(model)
    assert torch.equal(job.log_probs_of_draws(draws), in_turn(job, draws))
    assert not any("forward" in vars(place.linear) for place in model.adapters.values())


@pytest.mark.usefixtures("_forced")
def test_a_whole_run_predicts_the_same(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = plan("ivon", ivon={"draws": 4})
    together = compute(run, tmp_path / "together").predictions(run)
    monkeypatch.setattr(side_by_side, "gains", lambda device: False)
    apart = compute(run, tmp_path / "apart").predictions(run)
    for name, value in apart.items():
        torch.testing.assert_close(torch.as_tensor(together[name]), torch.as_tensor(value), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("_forced")
def test_a_method_may_fill_the_same_tensors_for_each_draw() -> None:
    model = model_of()
    draws = [drawn(model, seed) for seed in range(4)]
    values = model.snapshot()

    def refilled() -> Iterator[dict[str, Tensor]]:
        for draw in draws:
            for name, value in draw.items():
                values[name].copy_(value)
            yield values

    job = job_of(model)
    torch.testing.assert_close(job.log_probs_of_draws(refilled()), in_turn(job, draws), rtol=1e-5, atol=1e-5)
