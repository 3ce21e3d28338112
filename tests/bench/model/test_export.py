"""An exported adapter, loaded by plain PEFT, gives the model's own logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.model.answers import answer_tokens
from bench.model.choice_model import load_model
from bench.model.export import base_place, write_adapter
from bench.model.formats import EMBEDDED
from bench.specs import LoraSpec, ModelSpec

ANSWERS = ("A", "B")


@pytest.mark.parametrize(
    ("variant", "targets"),
    [
        ("lora", ("q_proj", "v_proj")),
        ("rslora", ("q_proj",)),
        ("dora", ("q_proj", "v_proj")),
        ("lora", ("q_proj", "head")),
        ("lora", ("head",)),
    ],
)
def test_peft_gives_the_logits_of_the_suite(tmp_path: Path, variant: str, targets: tuple[str, ...]) -> None:
    spec = ModelSpec(id="embedded", lora=LoraSpec(variant=variant, targets=targets, r=4))
    model = load_model(spec, None, tiny.CPU)
    model.prepare(ANSWERS, 1)
    params = tiny.drawn(model)
    write_adapter(tmp_path, params, spec, EMBEDDED, ANSWERS)

    base = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    ids = list(answer_tokens(tokenizer, ANSWERS, "embedded"))
    with torch.no_grad(), model.assign(params):
        for prompt in tiny.PROMPTS:
            theirs = plain(**tokenizer([prompt], return_tensors="pt")).logits[:, -1, ids]
            torch.testing.assert_close(theirs, model.logits(tiny.one_batch(model, [prompt])), atol=1e-5, rtol=0)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(EMBEDDED) and config["r"] == 4


def test_dora_on_the_head_is_refused(tmp_path: Path) -> None:
    spec = ModelSpec(id="embedded", lora=LoraSpec(variant="dora", targets=("head",)))
    model = load_model(spec, None, tiny.CPU)
    model.prepare(ANSWERS, 1)
    with pytest.raises(ValueError, match="DoRA on the answer head cannot be exported"):
        write_adapter(tmp_path, tiny.drawn(model), spec, EMBEDDED, ANSWERS)


def test_a_local_base_must_be_named(tmp_path: Path) -> None:
    assert base_place(ModelSpec(id="owner/name"), None) == "owner/name"
    assert base_place(ModelSpec(id="local:12"), tmp_path) == tmp_path
    with pytest.raises(ValueError, match="--model DIR"):
        base_place(ModelSpec(id="local:12"), None)
