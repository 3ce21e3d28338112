"""Gradient checkpointing: the same bytes, fewer kept activations, and what it does not apply to."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from support import bench, compute, plan, result_bytes
from tiny import CPU, FAMILIES, lora, one_batch, saved

from bench.errors import ModelNotUsable
from bench.model.base import repeated_layers
from bench.model.choice_model import ChoiceModel, load_model
from bench.model.forward.recompute import Recompute
from bench.model.identity import resolve_model


def kept(model: ChoiceModel, on: bool) -> tuple[int, list[torch.Tensor]]:
    """(numbers that autograd keeps for a backward pass, the gradients)."""
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    for parameter in model.params.values():
        parameter.grad = None
    recompute = model.recompute()
    torch.manual_seed(1)
    with model.dropout(), recompute.on() if on else recompute.off():
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = torch.nn.functional.cross_entropy(model.logits(one_batch(model)), torch.tensor([0, 1, 0, 1]))
        total = sum(sizes.values())
        loss.backward()  # type: ignore[no-untyped-call]
    return total, [p.grad.clone() for p in model.params.values() if p.grad is not None]


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_the_gradients_are_the_same_and_less_is_kept(name: str) -> None:
    options, targets = FAMILIES[name]
    folder = saved(name, options)
    model = load_model(resolve_model(lora(targets), folder), folder, CPU)
    model.prepare(("A", "B"), seed=0)
    (all_of_it, plain), (less, again) = kept(model, False), kept(model, True)
    assert plain and len(plain) == len(again) and all(map(torch.equal, plain, again))
    assert less < all_of_it / 2
    assert not any("forward" in vars(module) for module in model._base.modules()), "the layers are as they were"


@pytest.mark.parametrize("method", ["adamw", "ivon"])
def test_a_training_has_the_same_bytes(method: str, tmp_path: Path) -> None:
    run = plan(method, "colours")
    plain, again = compute(run, tmp_path / "plain"), compute(run, tmp_path / "again", recompute=True)
    assert result_bytes(plain, run) == result_bytes(again, run)


@pytest.mark.parametrize(
    ("method", "said"), [("blob", "hooks the adapters' maps"), ("bbb", "saved nothing where the method")]
)
def test_where_it_saves_nothing_that_is_told_and_the_bytes_stay(method: str, said: str, tmp_path: Path) -> None:
    run = plan(method, "colours")
    plain, again = compute(run, tmp_path / "plain"), compute(run, tmp_path / "again", recompute=True)
    assert result_bytes(plain, run) == result_bytes(again, run)
    warnings = [store.fit_facts(run.fit)["warnings"] for store in (plain, again)]
    assert not any(said in one for one in warnings[0]) and any(said in one for one in warnings[1])


def test_a_base_without_such_layers_is_refused() -> None:
    with pytest.raises(ModelNotUsable, match="has no layers that can be computed again"):
        repeated_layers(torch.nn.Linear(2, 2), "a base", "computed again")


def test_the_option_reaches_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setattr(Recompute, "on", lambda self: used.append(self) or contextlib.nullcontext())
    monkeypatch.setattr(Recompute, "kept", False, raising=False)
    call = ("run", "--method", "adamw", "--task", "colours", "--set", "steps=2", "--device", "cpu")
    bench(*call, "--gradient-checkpointing", cwd=tmp_path)
    bench(*call, "--seed", "1", cwd=tmp_path)
    assert len(used) == 1
