"""MC dropout: the rate, the mean, and that a mask of the adapters is PEFT's dropout with the mask held."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import compute, plan
from torch import Tensor, nn

from bench.data.splits import DataSource, load_split
from bench.model.choice_model import load_model
from bench.task import get_task
from methods.mc_dropout import McDropout, masked


def test_masks_drop_columns_of_a_at_the_rate_and_keep_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    params = {"x.lora_A.weight": torch.ones(3, 500), "x.lora_B.weight": torch.full((4, 3), 2.0)}
    draws = [masked(params, 0.2, generator) for _ in range(400)]
    a = torch.stack([draw["x.lora_A.weight"] for draw in draws])
    assert torch.equal(a, a[:, :1].expand_as(a))  # whole columns
    assert set(a.unique().tolist()) == {0.0, 1.25}
    assert abs(float((a[:, 0] == 0).float().mean()) - 0.2) < 0.004  # 4.5 standard errors of 200 000 draws
    assert abs(float(a.mean()) - 1) < 0.005
    dropped = (a[:, 0] == 0).float()
    assert dropped.mean(0).std() < 0.03 and dropped.mean(1).std() < 0.03  # no feature and no mask is favoured
    assert all(torch.equal(draw["x.lora_B.weight"], params["x.lora_B.weight"]) for draw in draws)


def test_every_adapter_has_masks_of_its_own() -> None:
    params = {f"layer.{name}_proj.lora_A.weight": torch.ones(2, 100) for name in "qv"}
    q, v = masked(params, 0.5, torch.Generator().manual_seed(0)).values()
    assert 20 < int((q[0] != v[0]).sum()) < 80


def test_a_mask_is_the_dropout_of_the_adapters_input_with_the_mask_held() -> None:
    """Against PEFT itself, whose dropout modules are made to apply one mask to all tokens and examples."""
    run = plan("adamw", "notes_four")
    model = load_model(run.fit.model, None, torch.device("cpu"))
    model.prepare(get_task("notes_four").answers, 3)
    generator = torch.Generator().manual_seed(4)
    params = {name: torch.randn(p.shape, generator=generator) * 0.1 for name, p in model.params.items()}
    draw = masked(params, 0.1, torch.Generator().manual_seed(5))
    examples = load_split(get_task("notes_four"), "validation", DataSource()).examples[:6]
    batch = model.encode(examples, 320).batch(range(6))

    class Held(nn.Module):
        def __init__(self, scale: Tensor) -> None:
            super().__init__()
            self.scale = scale

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    with torch.no_grad():
        ours, plain = model.logits(batch, draw), model.logits(batch, params)
        for name, module in model._module.named_modules():
            if hasattr(module, "lora_dropout") and len(module.lora_dropout):
                a = name + ".lora_A.weight"
                alive = (draw[a] != 0).any(0).float() / 0.9
                module.lora_dropout["default"] = Held(alive)
        theirs = model.logits(batch, params)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert (ours - plain).abs().max() > 0.05


def test_masks_differ_and_are_fixed_for_the_evaluation_set(tmp_path: Path) -> None:
    run = plan("mc_dropout", adamw={"lr": 1e-2})
    log_probs = compute(run, tmp_path).predictions(run)["log_probs"]
    assert log_probs.shape[0] == 10
    assert len({row.tobytes() for row in log_probs}) == 10
    fewer = plan("mc_dropout", adamw={"lr": 1e-2}, mc_dropout={"masks": 4})
    assert (compute(fewer, tmp_path).predictions(fewer)["log_probs"] == log_probs[:4]).all()


def test_adapters_without_dropout_are_refused_before_any_work() -> None:
    with pytest.raises(ValueError, match=r"mc_dropout needs adapters trained with dropout.*Set lora.dropout"):
        plan("mc_dropout", lora={"dropout": 0.0})


def test_no_masks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mc_dropout\.masks is 0"):
        McDropout.make({"masks": 0})
