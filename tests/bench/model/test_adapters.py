"""LoRA settings and targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from tiny import (
    CPU,
    FAMILIES,
    LETTERS,
    LLAMA,
    PROMPTS,
    TRUTHS,
    build,
    byte_level,
    check_answers_as_the_model_itself,
    drawn,
    lora,
    merged,
    one_batch,
    save,
    saved,
    spread,
)
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from bench.errors import ModelNotUsable
from bench.model.adapters import VARIANTS, choose_targets
from bench.model.answers import answer_tokens
from bench.model.choice_model import ChoiceModel, load_model
from bench.model.own_adapter import adapter_values, read_adapter
from bench.specs import LoraSpec, ModelSpec
from bench.specs.spec import LORA_VARIANTS


def test_lora_settings_are_the_specs(llama: Path) -> None:
    batches = {}
    for r, alpha in ((2, 4.0), (2, 8.0), (4, 8.0)):
        model = load_model(lora(["o_proj", "layers.1.mlp.up_proj"], r=r, alpha=alpha), llama, CPU)
        names = [n.removesuffix(".lora_A.weight") for n in model.params if "lora_A" in n]
        assert names == [
            "model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj", "model.layers.1.mlp.up_proj"
        ]  # fmt: skip
        assert {min(p.shape) for p in model.params.values()} == {r}
        check_answers_as_the_model_itself(model, AutoModelForCausalLM.from_pretrained(llama), LETTERS[:2])
        batches[r, alpha] = model
    assert len(batches) == 3


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        (["q_prj"], "tiny has no layer 'q_prj' for LoRA.*Did you mean 'q_proj'"),
        (["q_proj", "layers.9.v_proj"], "no layer 'layers.9.v_proj'"),
        (["mlp"], "no layer 'mlp'.*Known: down_proj, gate_proj, head, k_proj, o_proj, q_proj, up_proj, v_proj"),
        (["proj"], "no layer 'proj'"),
        (["lm_head"], "no layer 'lm_head' for LoRA.*Did you mean 'head'"),
        (["embed_tokens"], "no layer 'embed_tokens'"),
        (["all-linear"], "no layer 'all-linear'"),
    ],
)
def test_a_layer_that_lora_cannot_take_is_named(llama: Path, targets: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        load_model(lora(targets), llama, CPU)
    caught.match("--set lora.targets=NAME,NAME")


def test_a_layer_whose_weight_is_only_read_takes_no_lora(tmp_path: Path) -> None:
    options, _ = FAMILIES["mamba"]
    folder = save(tmp_path / "m", build("mamba", options), byte_level("<s>"))
    with pytest.raises(ValueError, match=r"LoRA on 'dt_proj' would have no effect in tiny: its layers never run as"):
        load_model(lora(["in_proj", "dt_proj"]), folder, CPU)


# Variants


def adapted(folder: Path, spec: LoraSpec, answers: tuple[str, ...] = LETTERS[:4], **options: Any) -> ChoiceModel:
    model = load_model(ModelSpec(id="tiny", lora=spec, **options), folder, CPU)
    model.prepare(answers, seed=3)
    return model


def untouched_logits(base: Any, model: ChoiceModel, answers: tuple[str, ...] = LETTERS[:4]) -> Tensor:
    """(N, C) logits of PROMPTS by a plain transformers model."""
    ids = list(answer_tokens(model.tokenizer, answers, "tiny"))
    with torch.no_grad():
        tokens = [model.tokenizer(prompt, return_tensors="pt")["input_ids"] for prompt in PROMPTS]
        return torch.cat([base(input_ids=t).logits[:, -1, ids] for t in tokens])


@pytest.mark.parametrize("variant", LORA_VARIANTS)
def test_every_variant_starts_from_the_base_for_every_seed_and_is_it_wherever_b_is_zero(
    variant: str, tmp_path: Path
) -> None:
    """Zero-shot and `bench export` rely on it; an initialisation that changes the base breaks it."""
    options, targets = FAMILIES["llama"]
    base = build("llama", options)
    folder = save(tmp_path / "m", base, byte_level("<s>"))
    model = adapted(folder, LoraSpec(variant=variant, targets=targets, r=4, alpha=6.0))
    wanted = untouched_logits(base, model)
    for seed in (1, 2):
        model.prepare(LETTERS[:4], seed)
        torch.testing.assert_close(model.logits(one_batch(model)).detach(), wanted, rtol=0, atol=1e-5)
    zero = {name: torch.zeros_like(p) for name, p in model.params.items() if "lora_B" in name}
    with model.assign(zero):
        torch.testing.assert_close(model.logits(one_batch(model)).detach(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
def test_a_variant_has_the_weights_that_its_paper_says(name: str, variant: str, tmp_path: Path) -> None:
    options, targets = FAMILIES[name]
    base = build(name, options)
    folder = save(tmp_path / "m", base, byte_level("<s>"))
    model = adapted(folder, LoraSpec(variant=variant, targets=targets, r=4, alpha=6.0))
    fresh = model.logits(one_batch(model)).detach()
    torch.testing.assert_close(fresh, untouched_logits(base, model), rtol=0, atol=1e-5, msg="it starts from the base")
    params = drawn(model)
    magnitudes = {n: p for n, p in model.params.items() if "magnitude" in n}
    assert len(magnitudes) == (len(model.params) // 3 if variant == "dora" else 0)
    params |= {n: p.detach() * (1 + 0.1 * params[n]) for n, p in magnitudes.items()}
    for a in (n for n in params if n.endswith("lora_A.weight")):
        layer = base.get_submodule(a.removesuffix(".lora_A.weight"))
        weight = layer.weight.detach() if isinstance(layer, nn.Linear) else layer.weight.detach().T
        scale = 6.0 / (4**0.5 if variant == "rslora" else 4)
        weight = weight + scale * params[a.replace("lora_A", "lora_B")] @ params[a]
        if variant == "dora":
            norms = weight.norm(dim=1, keepdim=True)
            weight = params[a.replace("lora_A", "lora_magnitude_vector")][:, None] * weight / norms
        with torch.no_grad():
            layer.weight.copy_(weight if isinstance(layer, nn.Linear) else weight.T)
    with model.assign(params):
        torch.testing.assert_close(
            model.logits(one_batch(model)).detach(), untouched_logits(base, model), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("q_proj", "head")], ids=",".join)
@pytest.mark.parametrize(("quantization", "dtype"), [("none", "bfloat16"), ("int8", "float32"), ("nf4", "bfloat16")])
def test_dora_starts_from_any_base_exactly_and_trains_all_its_parameters(
    quantization: str, dtype: str, targets: tuple[str, ...]
) -> None:
    options = {"quantization": quantization, "dtype": dtype}
    plain, dora = (
        load_model(ModelSpec(lora=LoraSpec(variant=variant, targets=targets), **options), None, CPU)
        for variant in ("lora", "dora")
    )
    for model in (plain, dora):
        model.prepare(LETTERS[:4], seed=1)
    batch = one_batch(dora)
    torch.testing.assert_close(dora.logits(batch), plain.logits(batch), rtol=0, atol=1e-4)
    values = {n: p.detach() + 0.1 * d for (n, p), d in zip(dora.params.items(), drawn(dora).values(), strict=True)}
    with dora.assign(values):
        moved = dora.logits(batch)
        moved.square().sum().backward()
    assert all(p.dtype == torch.float32 and p.grad is not None and p.grad.any() for p in dora.params.values())
    computed = {n: v.requires_grad_() for n, v in values.items()}
    torch.testing.assert_close(dora.logits(batch, computed), moved, rtol=0, atol=1e-5)
    dora.load({n: v.detach() for n, v in values.items()})
    dora.prepare(LETTERS[:4], seed=1)
    torch.testing.assert_close(dora.logits(batch), plain.logits(batch), rtol=0, atol=1e-4)


def test_every_variant_that_a_spec_may_name_is_known() -> None:
    assert set(VARIANTS) == set(LORA_VARIANTS)


# The answer head


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt_neox", "gpt2"])  # qwen2 and gpt2 tie the head to the embedding
@pytest.mark.parametrize("targets", [(), None], ids=["head", "layers-and-head"])
def test_lora_on_the_head_is_lora_on_the_whole_output_layer(name: str, targets: Any, tmp_path: Path) -> None:
    """Oracle: PEFT's LoRA rows for the full vocabulary, of which those of the answers are ours."""
    from peft import LoraConfig, inject_adapter_in_model

    options, own = FAMILIES[name]
    base = build(name, options)
    folder = save(tmp_path / "m", base, byte_level("<s>"))
    model = adapted(folder, LoraSpec(targets=(*(own if targets is None else targets), "head"), r=4, alpha=6.0))
    a, b = list(model.params)[-2:]
    head = a.removesuffix(".lora_A.weight")
    width = model.params[a].shape[1]
    assert model.params[b].shape == (4, 4) and base.get_submodule(head) is base.get_output_embeddings()
    generator = torch.Generator().manual_seed(3)
    for n, parameter in model.params.items():  # the same rule and stream as for every other adapter
        expected = torch.zeros(parameter.shape)
        if "lora_A" in n:
            bound = 1 / parameter.shape[1] ** 0.5
            expected.uniform_(-bound, bound, generator=generator)
        assert torch.equal(parameter, expected)
    assert [p.first for p in list(model.adapters.values())[-2:]] == [True, False]
    assert all(place.at_end for place in list(model.adapters.values())[-2:])

    params = drawn(model)
    merged(base, model, {n: v for n, v in params.items() if not n.startswith(head)})
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=6.0, target_modules=[head]), base)
    layer = base.get_submodule(head)
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(params[a])
        layer.lora_B["default"].weight.normal_()
        layer.lora_B["default"].weight[list(answer_tokens(model.tokenizer, LETTERS[:4], "tiny"))] = params[b]
    expected = untouched_logits(base, model)
    with model.assign(params):
        torch.testing.assert_close(model.logits(one_batch(model)).detach(), expected, rtol=1e-4, atol=1e-4)
    computed = {n: v.requires_grad_() for n, v in params.items()}
    logits = model.logits(one_batch(model), computed)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert all(g.any() for g in torch.autograd.grad(logits.square().sum(), list(computed.values())))
    assert width == base.get_input_embeddings().weight.shape[1]


@pytest.mark.parametrize(("quantization", "dtype"), [("int8", "float32"), ("nf4", "bfloat16"), ("none", "bfloat16")])
def test_the_head_of_a_rounded_base_takes_float32_adapters(quantization: str, dtype: str) -> None:
    lora = LoraSpec(targets=("q_proj", "head"))
    model = load_model(ModelSpec(lora=lora, quantization=quantization, dtype=dtype), None, CPU)
    model.prepare(LETTERS[:4], seed=1)
    with model.assign(drawn(model)):
        model.logits(one_batch(model)).square().sum().backward()
    assert all(p.dtype == torch.float32 and p.grad is not None and p.grad.any() for p in model.params.values())


def test_the_head_follows_the_answers_of_each_task() -> None:
    model = load_model(ModelSpec(lora=LoraSpec(targets=("q_proj", "head"))), None, CPU)
    assert not any("lm_head" in name for name in model.params), "its rows are known with the answers only"
    state, shapes = torch.get_rng_state(), {}
    for answers in (LETTERS[:2], TRUTHS, LETTERS, LETTERS[:2]):
        model.prepare(answers, seed=1)
        values = {n: p.detach().clone() for n, p in model.params.items()}
        assert shapes.setdefault(answers, values).keys() == values.keys()
        assert all(torch.equal(shapes[answers][n], v) for n, v in values.items())
        assert model.params["lm_head.lora_B.weight"].shape == (len(answers), 8)
        assert model.logits(one_batch(model)).shape == (len(PROMPTS), len(answers))
        with model.assign(drawn(model)):
            moved = model.logits(one_batch(model))
        assert not torch.equal(moved, model.logits(one_batch(model)))
    assert torch.equal(state, torch.get_rng_state()), "the global stream is left alone"
    other = shapes[LETTERS]
    with pytest.raises(ValueError, match=r"'lm_head\.lora_B\.weight' has shape \(5, 8\); the adapter has \(2, 8\)"):
        model.load(other)


def test_the_heads_dropout_is_adapter_dropout() -> None:
    model = load_model(ModelSpec(lora=LoraSpec(targets=("head",), dropout=0.5)), None, CPU)
    model.prepare(LETTERS[:2], seed=1)
    model.load(drawn(model))
    batch = one_batch(model)
    still = model.logits(batch)
    with model.dropout():
        assert not torch.equal(model.logits(batch), still)
    assert torch.equal(model.logits(batch), still)


# Which layers


@pytest.mark.parametrize(
    ("targets", "chosen"),
    [
        (["*.q_proj"], ["0.self_attn.q_proj", "1.self_attn.q_proj"]),
        (["*layers.1.*attn.[qv]_proj"], ["1.self_attn.q_proj", "1.self_attn.v_proj"]),
        (["*.1.mlp.*", "q_proj"], ["0.self_attn.q_proj", "1.self_attn.q_proj", "1.mlp.gate_proj", "1.mlp.up_proj",
                                   "1.mlp.down_proj"]),
    ],
)  # fmt: skip
def test_patterns_name_layers_by_their_whole_names(llama: Path, targets: list[str], chosen: list[str]) -> None:
    model = load_model(lora(targets), llama, CPU)
    assert [n.removeprefix("model.layers.").removesuffix(".lora_A.weight") for n in model.params if "_A" in n] == chosen
    assert model.targets.layers == tuple(f"model.layers.{name}" for name in chosen) and not model.warnings


def test_a_pattern_that_matches_nothing_is_refused(llama: Path) -> None:
    with pytest.raises(ValueError, match=r"tiny has no layer '\*\.c_attn' for LoRA"):
        load_model(lora(["*.c_attn"]), llama, CPU)


def two_towers(folder: Path) -> Path:
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    text = LLAMA | {"sliding_window": 64, "vocab_size": 600}
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=590, boi_token_index=591,
        eoi_token_index=592,
    )  # fmt: skip
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config).eval()
    spread(base)
    return save(folder, base, byte_level("<s>"))


def test_a_tower_that_text_does_not_pass_takes_no_adapters(tmp_path: Path) -> None:
    folder = two_towers(tmp_path / "m")
    model = load_model(lora(), folder, CPU)
    assert len(model.params) == 8 and not any("vision" in name for name in model.params)
    assert [name for name in model.targets.left_out if "vision" in name] == list(model.targets.left_out)
    (warning,) = model.warnings
    assert "4 layers that lora.targets names take no adapter because text does not pass them as linear" in warning
    model.prepare(TRUTHS, seed=1)
    model.check_maps()
    with pytest.raises(ValueError, match=r"LoRA on '\*vision\*' would have no effect in tiny: its layers never run"):
        load_model(lora(["*vision*"]), folder, CPU)
    assert not load_model(lora(["*language_model*.q_proj"]), folder, CPU).warnings


def test_an_adapter_of_both_towers_is_read_for_the_one_that_text_passes(tmp_path: Path) -> None:
    folder, own = two_towers(tmp_path / "m"), tmp_path / "own"
    both = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder), LoraConfig(r=8, target_modules=["q_proj", "v_proj"])
    )
    spread(both)
    both.save_pretrained(own)
    model = load_model(lora(), folder, CPU)
    values = adapter_values(own, read_adapter(own).content, model)
    assert values.keys() == model.params.keys()
    for name, value in values.items():
        inner = both.get_parameter(f"base_model.model.{name.replace('.weight', '.default.weight')}")
        assert torch.equal(value, inner)


MOE = LLAMA | {
    "first_k_dense_replace": 1, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_layers_that_peft_would_exchange_for_fused_experts_are_refused(dropout: float) -> None:
    targets = ("gate_proj", "up_proj", "down_proj")
    folder = saved("glm4_moe", MOE)
    with pytest.raises(ModelNotUsable, match=r"PEFT (adapts the fused|cannot adapt the layers).*choose"):
        load_model(lora(targets, dropout=dropout), folder, CPU)
    model = load_model(lora(("q_proj", "o_proj")), folder, CPU)
    assert len(model.targets.layers) == 4


def test_a_router_that_returns_more_than_its_product_takes_no_adapter() -> None:
    folder = saved("phimoe", LLAMA | {"num_local_experts": 4})
    model = load_model(lora(("*", "q_proj")), folder, CPU)
    assert any(name.endswith("o_proj") for name in model.targets.layers)
    assert all("router" in name or "gate" in name for name in model.targets.left_out) and model.targets.left_out
    assert "take no adapter because text does not pass them as linear maps" in " ".join(model.warnings)
    with pytest.raises(ModelNotUsable, match="would have no effect"):
        load_model(lora(("*router*",)), folder, CPU)


def test_an_expert_that_the_probe_was_not_routed_to_is_adapted() -> None:
    layers = [f"layers.{i}.mlp.experts.{e}.up_proj" for i in range(2) for e in range(3)] + ["tower.0.up_proj"]
    found = choose_targets(LoraSpec(targets=("up_proj",)), "tiny", layers, {"layers.0.mlp.experts.1.up_proj"})
    assert found.layers == tuple(layers[:-1]) and found.left_out == ("tower.0.up_proj",)
