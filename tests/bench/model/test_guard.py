"""What a method may leave behind in a model: undone, so that the next fit answers as the first would have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import CPU, LETTERS, TRUTHS, drawn, examples, one_batch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bench.model.choice_model import ChoiceModel, load_model
from bench.specs import LoraSpec, ModelSpec


class Doubled(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return 2 * value


def first(model: ChoiceModel) -> nn.Parameter:
    return next(iter(model.params.values()))


def layer(model: ChoiceModel) -> Any:
    return model._base.get_submodule("model.layers.0.self_attn.q_proj")


def replaced(holder: Any, name: str, value: object) -> None:
    setattr(holder, name, value)


LEFTOVERS: dict[str, Callable[[ChoiceModel], object]] = {
    "hook on a tensor": lambda m: first(m).register_hook(lambda gradient: 0 * gradient),
    "hook after a tensor's gradient": lambda m: first(m).register_post_accumulate_grad_hook(lambda p: p.grad.zero_()),
    "hook on an output": lambda m: layer(m).register_forward_hook(lambda module, args, out: 2 * out),
    "hook on an input": lambda m: layer(m).register_forward_pre_hook(lambda module, args: (2 * args[0],)),
    "hook on a gradient": lambda m: layer(m).register_full_backward_hook(
        lambda module, g, out: tuple(2 * x for x in g)
    ),
    "scaling": lambda m: layer(m).scaling.update(default=9.0),
    "dropout rate": lambda m: [replaced(each, "p", 0.9) for each in m._adapters.dropouts],
    "training mode": lambda m: m._base.train(),
    "parameter removed": lambda m: m.params.pop(next(iter(m.params))),
    "parameter frozen": lambda m: [p.requires_grad_(False) for p in m.params.values()],
    "base thawed": lambda m: m._base.requires_grad_(True),
    "layer replaced": lambda m: replaced(m._base.model.layers[0], "self_attn", m._base.model.layers[1].self_attn),
    "layer added": lambda m: replaced(layer(m), "extra", nn.Linear(2, 2)),
    "forward overridden": lambda m: replaced(layer(m), "forward", lambda x, *_, **__: layer(m).base_layer(x)),
    "parametrised": lambda m: parametrize.register_parametrization(layer(m).lora_A["default"], "weight", Doubled()),
    "buffer": lambda m: m._base.model.rotary_emb.inv_freq.mul_(2),
    "configuration": lambda m: replaced(m._base.config, "output_hidden_states", True),
    "tokenizer": lambda m: replaced(m.tokenizer, "bos_token", "<|other|>"),
    "logits overridden": lambda m: replaced(m, "logits", lambda batch, params=None: torch.zeros(len(batch), 4)),
    "adapter of another shape": lambda m: replaced(first(m), "data", torch.zeros(3, 3)),
    "another read-out": lambda m: m.prepare(TRUTHS, seed=2),
}


def behaviour(model: ChoiceModel) -> list[Tensor]:
    """Logits and gradients of a fresh fit, with its dropout."""
    model.prepare(LETTERS[:4], seed=1)
    model.load(drawn(model))
    batch = one_batch(model)
    torch.manual_seed(0)
    with model.dropout():
        logits = model.logits(batch)
    if not logits.requires_grad:
        return [logits]
    loss = logits.square().sum()
    gradients = torch.autograd.grad(loss, list(model.params.values()), retain_graph=True, materialize_grads=True)
    logits.sum().backward()
    stored = [parameter.grad for parameter in model.params.values() if parameter.grad is not None]
    return [logits.detach(), *gradients, *stored, batch.input_ids]


@pytest.fixture(scope="module")
def model() -> ChoiceModel:
    return load_model(ModelSpec(lora=LoraSpec(targets=("q_proj", "head"))), None, CPU)


@pytest.mark.parametrize("name", LEFTOVERS)
def test_what_a_method_leaves_behind_is_undone(model: ChoiceModel, name: str) -> None:
    expected = behaviour(model)
    model.prepare(LETTERS[:4], seed=1)
    guard = model.guard()
    LEFTOVERS[name](model)
    assert guard.restore() == []
    found = behaviour(model)
    assert len(found) == len(expected) and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not any(p.requires_grad for n, p in model._base.named_parameters() if "lora_" not in n)
    assert not model._base.config.output_hidden_states


def test_most_leftovers_would_have_changed_something(model: ChoiceModel) -> None:
    """The test above can fail: without the guard, the kinds that the issue names change a later fit."""
    for name in ("hook on an output", "scaling", "dropout rate", "buffer", "forward overridden", "logits overridden"):
        expected = behaviour(model)
        model.prepare(LETTERS[:4], seed=1)
        guard = model.guard()
        LEFTOVERS[name](model)
        try:
            found = behaviour(model)
        finally:
            guard.restore()
        assert not all(torch.equal(a, b) for a, b in zip(found, expected, strict=False)), name


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.add_(1e-3),
        lambda p: p.data.add_(1e-3),  # which leaves no trace in a tensor's version
        lambda p: p.data.view(-1)[[0, 1]].copy_(p.data.view(-1)[[1, 0]].clone()),
        lambda p: p.data.view(-1)[:2].copy_(p.data.view(-1)[:2].flip(0)),
    ],
    ids=["in place", "by data", "copy", "swapped"],
)
def test_changed_weights_of_the_base_are_named(change: Callable[[Tensor], object]) -> None:
    model = load_model(ModelSpec(), None, CPU)
    model.prepare(LETTERS[:4], seed=1)
    guard = model.guard()
    with torch.no_grad():
        weight = model._base.get_submodule("model.layers.1.mlp.up_proj").weight
        before = weight.clone()
        change(weight)
    changed = not torch.equal(before, weight)
    assert guard.restore() == (["model.layers.1.mlp.up_proj.weight"] if changed else [])


def test_a_guard_counts_on_and_lets_adapters_train(model: ChoiceModel) -> None:
    model.prepare(LETTERS[:4], seed=1)
    guard, before = model.guard(), model.forwards
    values = drawn(model)
    model.load(values)
    model.logits(one_batch(model))
    assert guard.restore() == [] and model.forwards == before + 4
    assert all(torch.equal(model.params[name], value) for name, value in values.items())


@pytest.mark.parametrize(("quantization", "dtype"), [("int8", "float32"), ("nf4", "bfloat16"), ("none", "bfloat16")])
def test_a_rounded_base_is_not_called_changed_by_answering(quantization: str, dtype: str) -> None:
    for variant in ("lora", "dora"):
        lora = LoraSpec(variant=variant)
        model = load_model(ModelSpec(quantization=quantization, dtype=dtype, lora=lora), None, CPU)
        model.prepare(LETTERS[:4], seed=1)
        guard = model.guard()
        model.load(drawn(model))
        model.logits(one_batch(model)).sum().backward()
        assert guard.restore() == []
        model.logits(one_batch(model))


def test_features_are_what_the_head_reads(model: ChoiceModel) -> None:
    model.prepare(LETTERS[:4], seed=1)
    batch = one_batch(model)
    with model.assign({n: v for n, v in drawn(model).items() if "lm_head" not in n}):
        features = model.features(batch)
        head = model._loaded.head
        rows = head.weight[list(model._answer_ids)]
        torch.testing.assert_close(features @ rows.T, model.logits(batch), rtol=1e-5, atol=1e-5)
    assert features.shape == (4, head.weight.shape[1]) and features.requires_grad
    params = {n: v.requires_grad_() for n, v in drawn(model).items()}
    (gradient,) = torch.autograd.grad(model.features(batch, params).sum(), [next(iter(params.values()))])
    assert gradient.any() and not model._base.get_output_embeddings()._forward_pre_hooks
    assert len(model.encode(examples(), 64)) == 4
