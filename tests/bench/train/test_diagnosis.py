"""Numbers that are not finite are blamed on the base where its own logits are, and on the training where not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from support import compute, plan

from bench.errors import ModelNotUsable
from bench.method import FitJob
from bench.model.choice_model import ChoiceModel


@pytest.fixture
def overflowing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded base, whose logits are NaN on every fourth prompt or so."""
    logits = ChoiceModel.logits

    def some(self: ChoiceModel, batch: Any, params: Any = None) -> torch.Tensor:
        found = logits(self, batch, params)
        bad = (batch.input_ids * batch.attention_mask).sum(1) % 4 == 0
        return found.masked_fill(bad[:, None], float("nan"))

    monkeypatch.setattr(ChoiceModel, "logits", some)


@pytest.mark.parametrize("method", ["adamw", "ivon", "zero_shot", "swa"])
def test_the_base_is_blamed_for_its_own_logits(method: str, overflowing: None, tmp_path: Path) -> None:
    with pytest.raises(ModelNotUsable, match=r"The logits of embedded itself, before any training \(B = 0\), are not"):
        compute(plan(method, steps=30), tmp_path)


@pytest.mark.parametrize("method", ["adamw", "swa", "map"])
def test_a_training_that_diverges_is_to_blame_itself(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = FitJob.loss
    monkeypatch.setattr(FitJob, "loss", lambda job, batch: loss(job, batch) * float("nan"))
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        compute(plan(method), tmp_path)


def test_a_loss_that_is_infinite_before_the_first_step_is_not_the_learning_rates_fault(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"near step 1 of map .*: the settings of map make it so"):
        compute(plan("map", map={"prior_sd": 1e-30}), tmp_path)


def test_a_float16_base_is_told_to_use_another_dtype(
    overflowing: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = ChoiceModel.prepare

    def as_float16(self: ChoiceModel, *arguments: Any) -> None:
        prepare(self, *arguments)
        self.spec = dataclasses.replace(self.spec, dtype="float16")

    monkeypatch.setattr(ChoiceModel, "prepare", as_float16)
    with pytest.raises(ModelNotUsable, match=r"not finite in float16 .* use --dtype bfloat16 or float32"):
        compute(plan("zero_shot"), tmp_path)
