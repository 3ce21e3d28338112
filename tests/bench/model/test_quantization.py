"""Quantised bases and other precisions: logits, gradients and adapters as those of the float base."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tiny import (
    CPU,
    FAMILIES,
    LETTERS,
    PROMPTS,
    TRUTHS,
    drawn,
    lora,
    merged,
    one_batch,
    one_by_one,
    saved,
)
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from bench.data.splits import DataSource, load_split
from bench.model.answers import answer_tokens
from bench.model.choice_model import ChoiceModel, load_model
from bench.model.identity import resolve_model
from bench.model.quantization import QUANTIZATIONS, Quantization
from bench.specs import ModelSpec
from bench.task import get_task


@pytest.fixture(scope="session", params=["int8", "nf4"])
def quantised(request: pytest.FixtureRequest) -> ChoiceModel:
    return load_model(ModelSpec(quantization=request.param), None, CPU)


@pytest.fixture(scope="session")
def twin(quantised: ChoiceModel) -> ChoiceModel:
    """The embedded base in float32; for nf4, which rounds weights only, with its weights as they were rounded."""
    import bitsandbytes

    model = load_model(ModelSpec(), None, CPU)
    for name, layer in quantised._base.named_modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            rounded = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            model._base.get_submodule(name).weight.data.copy_(rounded)
    return model


def test_quantised_logits_are_close_to_the_float_ones(quantised: ChoiceModel, twin: ChoiceModel) -> None:
    for model in (quantised, twin):
        model.prepare(LETTERS[:4], seed=1)
    kind = quantised.spec.quantization
    layer = quantised._base.get_submodule("model.layers.0.self_attn.q_proj.base_layer")
    assert layer.weight.dtype == {"int8": torch.int8, "nf4": torch.uint8}[kind]
    bound = {"int8": 0.1, "nf4": 1e-4}[kind]  # of the spread of the logits; int8 rounds its inputs too
    with quantised.assign(drawn(quantised, scale=0.1)), twin.assign(drawn(twin, scale=0.1)):
        exact, rounded = one_by_one(twin), one_by_one(quantised)
        padded = quantised.logits(one_batch(quantised)).detach()
    assert (rounded - exact).abs().max() < bound * exact.std()
    torch.testing.assert_close(padded, rounded, rtol=0, atol=0.03 * float(exact.std()))


def test_quantised_bases_pass_gradients_to_float32_adapters(quantised: ChoiceModel, twin: ChoiceModel) -> None:
    gradients = []
    for model in (quantised, twin):
        model.prepare(LETTERS[:4], seed=1)
        batch = one_batch(model)
        with model.assign(drawn(model, scale=0.1)):
            assert all(p.dtype == torch.float32 for p in model.params.values())
            assert not any(p.requires_grad for n, p in model._module.named_parameters() if "lora_" not in n)
            loss = nn.functional.cross_entropy(model.logits(batch), batch.labels)
            gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.params.values()))]))
    rounded, exact = gradients
    assert rounded.dtype == torch.float32 and rounded.isfinite().all()
    least = {"int8": 0.9, "nf4": 0.9999}[quantised.spec.quantization]
    assert nn.functional.cosine_similarity(rounded, exact, dim=0) > least


def test_int8_layers_leave_their_float16_input_alone() -> None:
    model = load_model(ModelSpec(quantization="int8", dtype="float16"), None, CPU)
    layer = model._base.get_submodule("model.layers.0.self_attn.o_proj")
    x = torch.zeros(2, 3, layer.in_features, dtype=torch.float16)
    x[..., 5] = 4  # its exponential is above the threshold of bitsandbytes' outliers
    x.requires_grad_()
    layer(x.exp()).sum().backward()  # the exponential's backward pass reads its output
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.any()


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_bfloat16_base_has_float32_adapters(quantization: str, embedded: ChoiceModel) -> None:
    model = load_model(ModelSpec(dtype="bfloat16", quantization=quantization), None, CPU)
    model.prepare(TRUTHS, seed=1)
    assert model._base.get_input_embeddings().weight.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in model.params.values())
    with model.assign(drawn(model, scale=0.1)):
        logits = model.logits(one_batch(model))
        logits.square().sum().backward()
    assert logits.dtype == torch.float32
    for parameter in model.params.values():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32 and parameter.grad.any()


def test_a_base_that_cannot_be_quantised_is_refused() -> None:
    sentences = {
        "falcon": "No layer of tiny can be quantised to int8",
        "mamba": "tiny cannot answer a text prompt in int8",
    }
    for name, sentence in sentences.items():
        options, targets = FAMILIES[name]
        folder = saved(name, options)
        with pytest.raises(ValueError, match=sentence):
            load_model(dataclasses.replace(lora(targets), quantization="int8"), folder, CPU)


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_conv1d_layers_and_tied_heads_can_be_quantised(gpt2: Path, quantization: str) -> None:
    spec = dataclasses.replace(lora(["c_attn"]), quantization=quantization)
    model = load_model(spec, gpt2, CPU)
    model.prepare(LETTERS[:4], seed=1)
    params = {name: value.requires_grad_() for name, value in drawn(model).items()}
    logits = model.logits(one_batch(model), params)
    assert all(g.any() for g in torch.autograd.grad(logits.square().sum(), list(params.values())))
    reference = merged(AutoModelForCausalLM.from_pretrained(gpt2), model, {n: p.detach() for n, p in params.items()})
    ids = list(answer_tokens(model.tokenizer, LETTERS[:4], "tiny"))
    expected = [reference(**model.tokenizer(prompt, return_tensors="pt")).logits[0, -1, ids] for prompt in PROMPTS]
    bound = {"none": 1e-4, "int8": 0.1, "nf4": 1.5}[quantization]
    torch.testing.assert_close(logits, torch.stack(expected), rtol=0, atol=bound * float(logits.detach().std()))


def test_another_quantisation_is_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is no more than a hook on the loaded model: weights rounded to a grid."""

    def round_weights(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.data = (module.weight.data * 8).round() / 8

    with pytest.raises(ValueError, match=r"quantization 'grid'\. Known: int8, nf4, none"):
        resolve_model(ModelSpec(quantization="grid"), None)
    monkeypatch.setitem(QUANTIZATIONS, "grid", Quantization(adjust=round_weights))
    model = load_model(resolve_model(ModelSpec(quantization="grid"), None), None, CPU)
    model.prepare(LETTERS[:4], seed=1)
    weight = model._base.get_submodule("model.layers.0.self_attn.q_proj.base_layer").weight
    assert torch.equal(weight * 8, (weight * 8).round()) and weight.any()
    assert model.logits(one_batch(model)).isfinite().all()


BATCH_MATES, BATCH_MATES_NLL = 0.003, 0.0005  # of a probability, of the NLL in nats


def test_int8_answers_depend_on_batch_mates_within_the_stated_bound() -> None:
    """bitsandbytes computes a column in float16 where any token of the batch is above its threshold (PROTOCOL 1)."""
    model = load_model(ModelSpec(quantization="int8"), None, CPU)
    task = get_task("notes_four")
    model.prepare(task.answers, seed=1)
    model.load(drawn(model, scale=0.1))
    rows = load_split(task, "validation", DataSource()).examples[:64]
    encoded = model.encode(rows, 320)
    labels = torch.tensor([row.label for row in rows])

    def log_probs(size: int) -> Tensor:
        found = torch.empty(len(rows), len(task.answers))
        with torch.no_grad():
            for numbers, batch in encoded.in_order(size):
                found[numbers] = model.logits(batch).log_softmax(-1)
        return found

    alone, together = log_probs(1), log_probs(32)
    assert (alone.exp() - together.exp()).abs().max() < BATCH_MATES
    nll = [nn.functional.nll_loss(found, labels) for found in (alone, together)]
    assert abs(float(nll[0] - nll[1])) < BATCH_MATES_NLL
    page = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()
    said = " ".join(page.split())
    assert f"a probability by up to {BATCH_MATES:g} and the NLL by up to {BATCH_MATES_NLL:g}" in said
