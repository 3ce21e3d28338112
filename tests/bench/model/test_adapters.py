"""LoRA settings and targets."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import CPU, FAMILIES, LETTERS, build, byte_level, check_answers_as_the_model_itself, lora, save
from transformers import AutoModelForCausalLM

from bench.model.choice_model import load_model


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
        (["mlp"], "no layer 'mlp'.*Known: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"),
        (["proj"], "no layer 'proj'"),
        (["lm_head"], "no layer 'lm_head' for LoRA .the output layer takes none"),
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
    with pytest.raises(ValueError, match=r"LoRA on 'dt_proj' would have no effect in tiny: its layers never run\."):
        load_model(lora(["in_proj", "dt_proj"]), folder, CPU)
