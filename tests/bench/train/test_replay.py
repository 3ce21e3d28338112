"""Replayed steps against plain ones: the same bits, or no replay."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bench.data.batches import Batch, Encoded
from bench.model import choice_model
from bench.model.choice_model import ChoiceModel, load_model
from bench.specs import ModelSpec
from bench.task import Example
from bench.train import replay
from bench.train.replay import FIRST, ReplayedLoss, pays
from tests.support import compute, plan_few, result_bytes


@pytest.fixture(scope="module")
def base() -> ChoiceModel:
    return load_model(ModelSpec(), None, torch.device("cpu"))


@pytest.fixture
def model(base: ChoiceModel) -> ChoiceModel:
    """The embedded base with B != 0."""
    base.prepare(("A", "B"), seed=1)
    with torch.no_grad():
        for parameter in base.params.values():
            parameter.add_(0.01)
    return base


def prompts(*lengths: int) -> Encoded:
    tokens = tuple(tuple(range(5 + row, 5 + row + length)) for row, length in enumerate(lengths))
    examples = tuple(Example("", row % 2, id=str(row)) for row in range(len(lengths)))
    return Encoded(tokens, examples, 0, torch.device("cpu"), 0)


def steps(
    model: ChoiceModel,
    data: Encoded,
    count: int,
    objective: Callable[[Batch], Tensor] | None = None,
    each: Callable[[int], None] = lambda step: None,
) -> int:
    """Compare ``count`` steps with plain ones, bit for bit; returns how many were replayed."""
    parameters = list(model.params.values())
    loss = objective or (lambda batch: cross_entropy(model.logits(batch), batch.labels))
    replayed = ReplayedLoss(loss, model, parameters)
    with model.dropout():
        for step in range(count):
            batch = data.batch([(2 * step + place) % len(data) for place in range(2)])
            each(step)
            found = []
            for way in (replayed, replayed._run):
                torch.manual_seed(step)
                value = way(batch)
                found.append([value, *(p.grad for p in parameters if p.grad is not None), torch.rand(1)])
                model.network.zero_grad()
            assert len(found[0]) == len(parameters) + 2
            if objective is None:
                assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
            with torch.no_grad():
                parameters[0].add_(0.01)  # an optimizer's step: replays must see it
    return replayed.replayed


def test_a_replayed_step_has_the_bits_of_a_plain_one(model: ChoiceModel) -> None:
    assert steps(model, prompts(*[8] * 6), FIRST + 3) == 2


def test_each_mask_has_a_recording_of_its_own(model: ChoiceModel) -> None:
    """Two shapes, and two widths of pads in one of them."""
    assert steps(model, prompts(8, 8, 16, 16, 15, 16), 3 * (FIRST + 2)) == 3


def test_packed_rows_of_one_layout_are_replayed() -> None:
    """The same lengths in another order are another row."""
    model = load_model(ModelSpec(packing=True), None, torch.device("cpu"))
    model.prepare(("A", "B"), seed=1)
    assert steps(model, dataclasses.replace(prompts(7, 8, 8, 7), packing=True), 2 * (FIRST + 3)) == 4


def test_packed_rows_that_share_as_many_tokens_are_replayed() -> None:
    """Four lengths that share three tokens, or none: two layouts of one size of row."""
    model = load_model(ModelSpec(packing=True, shared_prefix=True), None, torch.device("cpu"))
    model.prepare(("A", "B"), seed=1)
    data = dataclasses.replace(prompts(7, 8, 7, 5), packing=True, shared_prefix=True)
    tokens = tuple((1, 2, 3, *prompt[3:]) if row < 2 else prompt for row, prompt in enumerate(data.tokens))
    data = dataclasses.replace(data, tokens=tokens)
    rows = [data.batch(pair).packed for pair in ((0, 1), (2, 3))]
    assert [(row.shared, row.input_ids.numel()) for row in rows if row is not None] == [(3, 12), (0, 12)]
    assert steps(model, data, 2 * (FIRST + 3)) == 4


def test_rare_masks_are_not_replayed(model: ChoiceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert steps(model, prompts(7, 8, 8, 8), 2 * FIRST) == 0
    monkeypatch.setattr(replay, "WAYS", 1)
    assert steps(model, prompts(8, 8, 7, 8), 2 * (FIRST + 3)) == 2


def test_hooks_and_another_dropout_are_seen(model: ChoiceModel) -> None:
    handles = []

    def change(step: int) -> None:
        if step == FIRST + 2:
            handles.append(model.head.register_forward_hook(lambda module, args, out: 2 * out))
        if step == FIRST + 3:
            handles.pop().remove()
            for module in model._adapters.dropouts:
                module.p = 0.5

    try:
        assert steps(model, prompts(*[8] * 6), FIRST + 5, each=change) == 1
    finally:
        for module in model._adapters.dropouts:
            module.p = model.spec.lora.dropout


@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_a_hook_on_the_gradient_of_an_adapter_is_called_in_every_step(model: ChoiceModel, kind: str) -> None:
    calls: list[int] = []
    handle = getattr(next(iter(model.params.values())), kind)(lambda gradient: calls.append(1))
    try:
        assert steps(model, prompts(*[8] * 6), FIRST + 3) == 0 and len(calls) == 2 * (FIRST + 3)
    finally:
        handle.remove()


def test_a_loss_that_decides_by_its_value_is_not_recorded(model: ChoiceModel) -> None:
    def loss(batch: Batch) -> Tensor:
        value = cross_entropy(model.logits(batch), batch.labels)
        return value if value > 1 else 2 * value

    assert steps(model, prompts(*[8] * 6), FIRST + 3, loss) == 0


def test_numbers_that_no_recording_can_know_are_found_out(model: ChoiceModel) -> None:
    def loss(batch: Batch) -> Tensor:
        return cross_entropy(model.logits(batch), batch.labels) * (1 + random.random())

    assert steps(model, prompts(*[8] * 6), FIRST + 3, loss) == 0


def test_a_tensor_that_a_step_changes_is_not_recorded(model: ChoiceModel) -> None:
    total = torch.zeros(())

    def loss(batch: Batch) -> Tensor:
        value = cross_entropy(model.logits(batch), batch.labels)
        total.add_(value.detach())
        return value + 0 * total

    assert steps(model, prompts(*[8] * 6), FIRST + 3, loss) == 0


def test_long_trainings_of_small_bases_are_replayed(model: ChoiceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = list(model.params.values())
    assert pays(model, parameters, replay.SHORT) and not pays(model, parameters, replay.SHORT - 1)
    assert not pays(model, parameters[1:], replay.SHORT)
    monkeypatch.setattr(choice_model, "SMALL", 1000)
    assert not pays(model, parameters, replay.SHORT)


@pytest.mark.parametrize("method", ["adamw", "ivon"])
def test_a_replayed_training_has_the_bytes_of_a_plain_one(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = plan_few(method, steps=12)
    counts = []
    take = ReplayedLoss._replay
    monkeypatch.setattr(ReplayedLoss, "_replay", lambda *arguments: counts.append(1) or take(*arguments))
    plain = result_bytes(compute(run, tmp_path / "plain"), run)
    assert not counts
    monkeypatch.setattr(replay, "SHORT", 1)
    assert result_bytes(compute(run, tmp_path / "replayed"), run) == plain
    assert len(counts) == 12 - FIRST
