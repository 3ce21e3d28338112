"""The last layer at the ends of prompts alone: the bits of whole passes, in every family, and when it stays off."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from support import compute, plan_few, result_bytes
from tiny import CPU, FAMILIES, drawn, examples, lora, one_batch, saved
from torch import Tensor, nn

from bench import method
from bench.data.batches import Batch
from bench.model import choice_model
from bench.model.base import layers_of
from bench.model.choice_model import ChoiceModel, load_model
from bench.model.forward import at_ends
from bench.model.forward.at_ends import FEWEST, LastTokens
from bench.model.identity import resolve_model
from bench.specs import FitSpec, ModelSpec
from bench.train import replay
from methods.laplace.curvature import Tape

# what is left out in the last layer; a module that sees no (B, T, d) is harmless in the list, so only these are named
PARTS = {
    "llama": {"self_attn.o_proj", "mlp"},
    "gpt2": {"attn.c_proj", "mlp"},
    "gpt_neox": {"attention.dense", "mlp"},
    "opt": {"self_attn.out_proj"},
}


def family(name: str) -> ChoiceModel:
    options, targets = FAMILIES[name]
    folder = saved(name, options)
    model = load_model(resolve_model(lora(targets), folder), folder, CPU)
    model.prepare(("A", "B"), seed=0)
    model.load(drawn(model))
    return model


def rows_read(model: ChoiceModel, module: nn.Module, batch: Batch) -> list[tuple[int, ...]]:
    """The shapes of what the class of a module is given in a pass: a hook on it would switch the whole thing off."""
    shapes: list[tuple[int, ...]] = []
    inner = type(module).forward

    def seen(self: nn.Module, tokens: Tensor, *args: Any, **options: Any) -> Any:
        if self is module:
            shapes.append(tuple(tokens.shape))
        return inner(self, tokens, *args, **options)

    with mock.patch.object(type(module), "forward", seen):
        model.logits(batch)
    return shapes


def found(model: ChoiceModel, batch: Batch) -> list[Tensor]:
    logits = model.logits(batch)
    return [
        logits.detach(),
        *torch.autograd.grad(logits.square().sum(), list(model.params.values()), allow_unused=True),
    ]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_logits_and_gradients_have_the_bits_of_whole_passes(name: str) -> None:
    model = family(name)
    batches = [one_batch(model, [*[prompt.prompt for prompt in examples()] * 3][:count]) for count in (1, 3, 4, 5, 12)]
    for batch in batches:
        whole = found(model, batch)
        with model.at_ends():
            short = found(model, batch)
        for a, b in zip(whole, short, strict=True):
            assert a is b is None or torch.equal(a, b)
    last = {id(module): path for path, module in model.network.named_modules()}
    names = {last[id(module)] for module in model._ends._modules}
    assert all(any(path.endswith(part) for path in names) for part in PARTS.get(name, set()))


@pytest.fixture
def model(embedded: ChoiceModel) -> ChoiceModel:
    embedded.prepare(("A", "B", "C", "D"), seed=0)
    embedded.load(drawn(embedded, scale=0.1))
    return embedded


@pytest.fixture
def mlp(model: ChoiceModel) -> nn.Module:
    base: Any = model.network
    found: nn.Module = base.model.layers[-1].mlp
    return found


def test_the_last_mlp_reads_a_token_per_prompt(model: ChoiceModel, mlp: nn.Module) -> None:
    batch = one_batch(model)
    whole, size = (*batch.input_ids.shape, 96), len(batch)
    assert rows_read(model, mlp, batch) == [whole]
    with model.at_ends():
        assert rows_read(model, mlp, batch) == [(size, 96)]
        with model.at_ends():
            assert rows_read(model, mlp, batch) == [(size, 96)]
        few = one_batch(model, [prompt.prompt for prompt in examples()][: FEWEST - 1])
        assert rows_read(model, mlp, few) == [(*few.input_ids.shape, 96)]
    assert rows_read(model, mlp, batch) == [whole]
    assert not any("forward" in vars(module) for module in model.network.modules()), "the modules are as they were"


def test_a_hook_on_the_base_sees_whole_passes(model: ChoiceModel, mlp: nn.Module) -> None:
    batch, shapes = one_batch(model), []
    hook = mlp.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    try:
        with model.at_ends():
            model.logits(batch)
    finally:
        hook.remove()
    assert shapes == [(*batch.input_ids.shape, 96)]


def test_what_reads_the_head_or_the_maps_is_shortened(model: ChoiceModel, mlp: nn.Module) -> None:
    batch = one_batch(model)
    whole = model.features(batch)
    with model.at_ends():
        assert torch.equal(model.features(batch), whole)
        hook = next(iter(model.adapters.values())).linear.register_forward_hook(lambda module, args, output: None)
        try:
            assert rows_read(model, mlp, batch) == [(len(batch), 96)]
        finally:
            hook.remove()


def test_an_error_in_a_pass_leaves_the_modules_as_they_were(model: ChoiceModel) -> None:
    batch = one_batch(model)
    stopped = mock.patch.object(type(model.head), "forward", side_effect=KeyboardInterrupt)
    with model.at_ends(), stopped, pytest.raises(KeyboardInterrupt):
        model.logits(batch)
    assert not any("forward" in vars(module) for module in model.network.modules())
    with model.at_ends():
        assert torch.isfinite(model.logits(batch)).all()


MLP = ("q_proj", "gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize("targets", [MLP, ("q_proj", "down_proj"), ("q_proj", "up_proj"), ("o_proj", "head")])
def test_adapted_layers_read_what_they_read_in_whole_passes(targets: tuple[str, ...]) -> None:
    """Dropout is drawn for all tokens, and curvature reads them all: the last token alone would do for the logits."""
    model = load_model(ModelSpec(lora=lora(targets).lora), None, CPU)
    model.prepare(("A", "B"), seed=0)
    model.load(drawn(model))
    batch, names = one_batch(model), list(model.params)
    whole = Tape(model, batch, names).inputs
    with model.at_ends():
        short = Tape(model, batch, names).inputs
    assert whole.keys() == short.keys() and all(torch.equal(whole[name], short[name]) for name in whole)


def test_a_trial_that_is_stopped_leaves_no_untried_module(model: ChoiceModel) -> None:
    hosts = [adapter.host for adapter in model.adapters.values()]
    ends = LastTokens(model.network, hosts, layers_of(model.network), model._ends._tokens)
    stopped = mock.patch.object(at_ends, "_same", side_effect=KeyboardInterrupt)
    with mock.patch.object(model, "_ends", ends), stopped, pytest.raises(KeyboardInterrupt), model.at_ends():
        pytest.fail("not reached")
    assert not ends._modules and not ends.chosen


def test_the_trial_leaves_no_trace(model: ChoiceModel) -> None:
    hosts = [adapter.host for adapter in model.adapters.values()]
    ends = LastTokens(model.network, hosts, layers_of(model.network), model._ends._tokens)
    before, state, snapshot = model.forwards, torch.get_rng_state(), model.snapshot()
    with mock.patch.object(model, "_ends", ends), model.dropout(), torch.inference_mode(), model.at_ends():
        assert ends.chosen and ends._modules and all(module.training for module in model._adapters.dropouts)
    assert model.forwards == before and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, snapshot[name]) for name, value in model.snapshot().items())


def test_a_module_that_mixes_tokens_is_not_taken(model: ChoiceModel) -> None:
    """Nor is one whose gradients differ by the order of a sum, such as a norm."""
    with model.at_ends():
        kept = {type(module).__name__ for module in model._ends._modules}
    assert not any("Attention" in name or "Norm" in name for name in kept) and "LlamaMLP" in kept


def test_a_large_base_is_left_alone(model: ChoiceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice_model, "SMALL", 1000)
    monkeypatch.setattr(LastTokens, "allowed", lambda self: pytest.fail("a large base"))
    with model.at_ends():
        pass


def on_targets(fit: FitSpec, targets: tuple[str, ...]) -> FitSpec:
    """A fit, and those that it starts from, with adapters on other layers."""
    adapters = dataclasses.replace(fit.model.lora, targets=targets)
    bases = tuple(on_targets(base, targets) for base in fit.bases)
    return dataclasses.replace(fit, model=dataclasses.replace(fit.model, lora=adapters), bases=bases)


@pytest.mark.parametrize(
    ("name", "targets"),
    [("adamw", ()), ("ivon", ()), ("blob", ()), ("la_kfac", ()), ("swag", ()), ("la_kfac", MLP), ("adamw", MLP)],
)
def test_results_have_the_same_bytes(
    name: str, targets: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In trainings, replayed or not, and in predictions."""
    run = plan_few(name, steps=8)
    run = dataclasses.replace(run, fit=on_targets(run.fit, targets)) if targets else run
    with mock.patch.object(choice_model, "SMALL", 0):
        plain = result_bytes(compute(run, tmp_path / "plain"), run)
    monkeypatch.setattr(replay, "SHORT", 1)
    monkeypatch.setattr(method, "MANY", 1)
    calls: list[int] = []
    at_end = at_ends._at_end
    monkeypatch.setattr(at_ends, "_at_end", lambda *args, **options: calls.append(1) or at_end(*args, **options))
    assert result_bytes(compute(run, tmp_path / "short"), run) == plain
    assert calls or targets  # adapters in the MLP read all tokens, so nothing is left to skip
