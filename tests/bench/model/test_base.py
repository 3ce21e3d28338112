"""Loading: models and files that are refused, and silence."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from patience import PATIENCE
from tiny import CPU, LLAMA, altered, byte_level, lora, save
from transformers import AutoModelForCausalLM

from bench.errors import ModelNotUsable
from bench.model.base import explained
from bench.model.choice_model import load_model
from bench.model.identity import resolve_model


def test_a_folder_without_a_model_is_refused(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json: give the folder of a model saved by transformers"):
        resolve_model(lora(), tmp_path)
    pickled = altered(llama, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"has no \*\.safetensors.*pickled weights are refused"):
        resolve_model(lora(), pickled)
    with pytest.raises(ValueError, match=r"tiny cannot be loaded.*safetensors"):
        load_model(lora(), pickled, CPU)


def test_an_encoder_decoder_or_a_classifier_is_refused(tmp_path: Path) -> None:
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=300, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
    )
    with pytest.raises(ValueError, match="tiny is an encoder-decoder: use a causal"):
        load_model(lora(), save(tmp_path / "t5", t5, byte_level()), CPU)
    options = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(image_size=16, patch_size=8, **options))
    with pytest.raises(ValueError, match=r"tiny cannot be loaded.*ViTConfig.*Give a causal language model") as caught:
        load_model(lora(), save(tmp_path / "vit", vit, byte_level()), CPU)
    assert len(str(caught.value)) < 600, "not the list of all architectures"


@pytest.mark.parametrize("kind", ["SequenceClassification", "TokenClassification", "QuestionAnswering"])
def test_a_classifier_whose_embeddings_could_be_its_output_layer_is_refused(kind: str, tmp_path: Path) -> None:
    config = transformers.Qwen2Config(**LLAMA, tie_word_embeddings=True)
    made = getattr(transformers, f"Qwen2For{kind}")(config)
    with pytest.raises(ModelNotUsable, match=f"tiny is a Qwen2For{kind}: use the causal language model"):
        load_model(lora(), save(tmp_path / "m", made, byte_level()), CPU)


def test_a_quantised_base_that_fails_names_the_quantisation() -> None:
    spec = dataclasses.replace(lora(), quantization="int8")
    said = r"in int8 \(RuntimeError: no\)\. Try --quantization none, or give"
    with pytest.raises(ModelNotUsable, match=said), explained("tiny", spec, "cannot answer"):
        raise RuntimeError("no")


@pytest.mark.parametrize("change", ["missing", "shape", "cut", "headless"])
def test_incomplete_weights_are_refused_not_made_up(llama: Path, change: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = altered(llama, tmp_path / change)
    file = folder / "model.safetensors"
    weights, victim = load_file(file), "model.layers.1.mlp.up_proj.weight"
    if change == "cut":
        file.write_bytes(file.read_bytes()[:5000])
        sentence = "tiny cannot be loaded.*Safetensor"
    else:
        victim = "lm_head.weight" if change == "headless" else victim
        gone = weights.pop(victim)
        save_file(weights | ({victim: gone[:5].clone()} if change == "shape" else {}), file, {"format": "pt"})
        sentence = f"files of tiny lack 1 of the model's weights .*, such as {victim}"
    with pytest.raises(ValueError, match=sentence):
        load_model(lora(), folder, CPU)


def test_a_folder_without_a_tokenizer_is_refused(llama: Path, tmp_path: Path) -> None:
    folder = altered(llama, tmp_path / "m")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"tiny cannot be loaded.*with its tokenizer"):
        load_model(lora(), folder, CPU)


def test_stored_quantised_weights_are_refused(llama: Path, tmp_path: Path) -> None:
    settings = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    folder = altered(llama, tmp_path / "m", quantization_config=settings)
    with pytest.raises(ValueError, match="weights of tiny are stored quantised"):
        load_model(lora(), folder, CPU)


def test_a_base_that_brings_an_adapter_is_refused(llama: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    folder = altered(llama, tmp_path / "m")
    get_peft_model(AutoModelForCausalLM.from_pretrained(llama), LoraConfig(target_modules=["q_proj"])).save_pretrained(
        folder
    )
    with pytest.raises(ValueError, match="tiny comes with its own adapter: merge it"):
        load_model(lora(), folder, CPU)


@pytest.mark.parametrize("part", ["config", "tokenizer", "unknown"])
def test_a_models_own_code_is_never_run(llama: Path, part: str, tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    code = f"open({str(mark)!r}, 'w').close()\nThing = None\n"
    names = {
        "AutoConfig": "own.Thing",
        "AutoModelForCausalLM": "own.Thing",
        "AutoTokenizer": ["own.Thing", "own.Thing"],
    }
    settings = {"config": {"auto_map": names}, "unknown": {"auto_map": names, "model_type": "own"}, "tokenizer": {}}
    folder = altered(llama, tmp_path / "m", **settings[part])
    (folder / "own.py").write_text(code)
    if part == "tokenizer":
        file = folder / "tokenizer_config.json"
        file.write_text(
            json.dumps(json.loads(file.read_text()) | {"auto_map": names, "tokenizer_class": "OwnTokenizer"})
        )
    try:
        load_model(lora(), folder, CPU)
        assert part == "config", "an architecture of transformers is loaded by its own code"
    except ValueError as error:
        assert "tiny cannot be loaded" in str(error) and "needs no custom code" in str(error)
    assert not mark.exists()


# Noise

QUIET = """
import sys
from pathlib import Path
import torch
from bench.model.choice_model import load_model
from bench.specs import LoraSpec, ModelSpec
from bench.task import Example

torch.set_num_threads(1)
gpt2 = Path(sys.argv[1])
for folder, *options in [
    (None, "none", "float32"), (None, "int8", "float32"), (None, "nf4", "bfloat16"), (gpt2, "int8", "float32")
]:
    lora = LoraSpec(targets=("c_attn",) if folder else ("q_proj",))
    spec = ModelSpec(id="tiny" if folder else "embedded", quantization=options[0], dtype=options[1], lora=lora)
    model = load_model(spec, folder, torch.device("cpu"))
    model.prepare(("A", "B"), 1)
    batch = model.encode([Example("Long " * 2000 + "Answer:", 0), Example("Answer:", 1)], 64).batch([0, 1])
    with model.dropout():
        model.logits(batch).sum().backward()
        model.logits(batch, {name: 2 * p for name, p in model.params.items()}).sum().backward()
print("a compiler" if "torch._inductor.compile_fx" in sys.modules else "done")
"""


@pytest.mark.slow
def test_loading_and_training_print_nothing_and_load_no_compiler(
    gpt2: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file, save_file

    folder = altered(gpt2, tmp_path / "m")
    file = folder / "model.safetensors"
    save_file(load_file(file) | {"left.over": torch.zeros(3)}, file, {"format": "pt"})
    command = [sys.executable, "-c", QUIET, str(folder)]
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")  # tests/conftest.py sets it
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stdout == "done\n", done.stderr
    assert done.stderr == ""
