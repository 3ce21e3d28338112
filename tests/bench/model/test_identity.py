"""Identity of a model: content, commit, and settings that do not exist."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import CPU, TRUTHS, altered, lora, one_batch

from bench.model.choice_model import load_model
from bench.model.identity import resolve_model
from bench.specs import ModelSpec


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dtype": "bf16"}, "dtype 'bf16'. Did you mean 'bfloat16'"),
        ({"dtype": "double"}, "Known: bfloat16, float16, float32"),
        ({"quantization": "int4"}, "quantization 'int4'. Did you mean 'int8'"),
        ({"quantization": "gptq"}, "Known: int8, nf4, none"),
    ],
)
def test_unknown_settings_get_a_near_miss(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        resolve_model(ModelSpec(**options), None)


# Identity


def test_a_model_is_its_content_not_its_place(llama: Path, tmp_path: Path) -> None:
    spec = lora()
    first = resolve_model(spec, llama)
    assert first.id.startswith("local:") and first.revision == "" and first.lora == spec.lora
    copy = altered(llama, tmp_path / "another name")
    (copy / "config.json").write_bytes((llama / "config.json").read_bytes())
    (copy / "README.md").write_text("not part of the model")
    assert resolve_model(dataclasses.replace(spec, id=str(copy)), copy) == first
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    assert resolve_model(spec, copy) != first
    for file in ("config.json", "tokenizer.json"):
        changed = altered(llama, tmp_path / file)
        (changed / "config.json").write_bytes((llama / "config.json").read_bytes())
        assert resolve_model(spec, changed) == first
        (changed / file).write_text((changed / file).read_text() + "\n")
        assert resolve_model(spec, changed) != first


def test_the_embedded_base_has_a_fixed_identity() -> None:
    first = resolve_model(ModelSpec(), None)
    assert first.id == "embedded" and len(first.revision) == 16
    assert resolve_model(first, None) == first


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub that holds org/name at one commit."""
    from huggingface_hub import constants

    repository = tmp_path / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(llama, repository / "snapshots" / COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("revision", ["", "main", COMMIT])
def test_a_cached_hub_model_loads_offline_at_its_commit(hub: Path, revision: str) -> None:
    spec = resolve_model(ModelSpec(id="org/name", revision=revision), None)
    assert (spec.id, spec.revision) == ("org/name", COMMIT)
    model = load_model(spec, None, CPU)
    model.prepare(TRUTHS, seed=1)
    assert model.logits(one_batch(model)).isfinite().all()


@pytest.mark.parametrize(("name", "revision"), [("org/nothing", ""), ("org/name", "v2"), ("not/a/name", "")])
def test_a_hub_model_that_is_not_there_gets_a_sentence(hub: Path, name: str, revision: str) -> None:
    with pytest.raises(ValueError, match=f"Model '{name}' at revision .* was not found .*hf download {name}"):
        resolve_model(ModelSpec(id=name, revision=revision), None)


def test_a_pinned_commit_that_is_not_there_gets_a_sentence(hub: Path) -> None:
    spec = resolve_model(ModelSpec(id="org/name", revision="f" * 40), None)
    with pytest.raises(ValueError, match="org/name cannot be loaded"):
        load_model(spec, None, CPU)
