"""Identity of a model: content, commit, and settings that do not exist."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CPU, TRUTHS, altered, lora, one_batch

from bench.data.hub import SECONDS
from bench.errors import ModelNotUsable
from bench.model.choice_model import load_model
from bench.model.identity import opened, readable_name, resolve_model
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


@pytest.mark.parametrize(
    ("stated", "called"),
    [
        ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
        ("/data/models/my llama", "my-llama"),
        ("./out", "out"),
        ("", "folder"),
        (None, "folder"),
        (3, "folder"),
    ],
)
def test_a_local_base_is_called_as_its_configuration_says_or_as_its_folder(
    stated: Any, called: str, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({} if stated is None else {"_name_or_path": stated}))
    assert readable_name(folder) == called


def test_files_and_the_hubs_cache_name_a_base_too(tmp_path: Path) -> None:
    (tmp_path / "qwen.Q8_0.gguf").write_bytes(b"")
    assert readable_name(tmp_path / "qwen.Q8_0.gguf") == "qwen.Q8_0"
    cached = tmp_path / "models--Qwen--Qwen3-0.6B" / "snapshots" / ("0" * 40)
    cached.mkdir(parents=True)
    (cached / "config.json").write_text("[")
    assert readable_name(cached) == "Qwen/Qwen3-0.6B"


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


# Read as it was named


def other_weights(folder: Path) -> None:
    """The files of another base, at the same place."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    save_file({name: 2 * value for name, value in load_file(file).items()}, file, {"format": "pt"})


def other_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(file.read_text() + "\n")


@pytest.mark.parametrize("change", [other_weights, other_tokenizer], ids=["weights", "tokenizer"])
def test_a_folder_that_has_changed_since_it_was_named_is_refused(
    llama: Path, change: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = altered(llama, tmp_path / "m")
    spec = resolve_model(lora(), folder)
    load_model(spec, folder, CPU)
    change(folder)
    said = rf"{folder} no longer holds {spec.id}: its files have changed since the run was planned \(now local:"
    with pytest.raises(ModelNotUsable, match=said):
        load_model(spec, folder, CPU)
    load_model(resolve_model(lora(), folder), folder, CPU)


def test_a_file_with_the_old_size_and_time_is_still_seen_to_have_changed(llama: Path, tmp_path: Path) -> None:
    folder = altered(llama, tmp_path / "m")
    spec, file = resolve_model(lora(), folder), folder / "model.safetensors"
    times = file.stat()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(ModelNotUsable, match="no longer holds"):
        load_model(spec, folder, CPU)


def test_files_that_are_replaced_while_they_are_read_are_refused(llama: Path, tmp_path: Path) -> None:
    folder = altered(llama, tmp_path / "m")
    spec, file = resolve_model(lora(), folder), folder / "model.safetensors"
    good = file.read_bytes()
    with pytest.raises(ModelNotUsable, match="no longer holds"), opened(spec, folder):
        other_weights(folder)
    file.write_bytes(good)
    with pytest.raises(ModelNotUsable, match="were replaced while they were read"), opened(spec, folder):
        other_weights(folder)
        file.write_bytes(good)
    with opened(spec, folder) as source:
        assert source.name == str(folder)


def test_a_loaded_base_keeps_its_weights_when_its_files_are_overwritten_in_place(llama: Path, tmp_path: Path) -> None:
    folder = altered(llama, tmp_path / "m")
    model = load_model(resolve_model(lora(), folder), folder, CPU)
    model.prepare(TRUTHS, seed=1)
    batch = one_batch(model)
    before = model.logits(batch)
    file = folder / "model.safetensors"
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        stream.write(bytes(file.stat().st_size - file.stat().st_size // 2))
    model.prepare(TRUTHS, seed=1)
    assert torch.equal(model.logits(batch), before)


def test_another_embedded_base_than_the_one_that_was_planned_is_refused() -> None:
    with pytest.raises(ModelNotUsable, match="no longer holds local:0123456789abcdef"):
        load_model(ModelSpec(revision="0123456789abcdef"), None, CPU)


def test_a_local_base_without_its_path_is_refused() -> None:
    with pytest.raises(ModelNotUsable, match="local:0123456789abcdef names files, and no path to them was given"):
        load_model(ModelSpec(id="local:0123456789abcdef"), None, CPU)


def test_errors_of_a_local_base_name_its_folder(llama: Path, tmp_path: Path) -> None:
    folder = altered(llama, tmp_path / "mine", num_attention_heads=3)
    with pytest.raises(ModelNotUsable, match=str(folder)) as caught:
        load_model(resolve_model(lora(), folder), folder, CPU)
    assert "local:" not in str(caught.value)


@pytest.mark.parametrize("name", ["z.json", "model.safetensors", "vocab.txt"])
def test_a_named_pipe_among_the_files_is_refused_and_never_opened(llama: Path, name: str, tmp_path: Path) -> None:
    folder = altered(llama, tmp_path / "m")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ModelNotUsable, match=f"{name} is not a regular file"):
        resolve_model(lora(), folder)


def test_weights_outside_the_folder_are_refused(llama: Path, tmp_path: Path) -> None:
    folder = altered(llama, tmp_path / "m")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelNotUsable, match=r"names \.\./elsewhere\.safetensors, which is not in"):
        resolve_model(lora(), folder)


def test_a_chat_template_counts_where_prompts_are_chats(llama: Path, tmp_path: Path) -> None:
    folder = altered(llama, tmp_path / "m")
    chat = dataclasses.replace(lora(), prompt="chat")
    plain, first = resolve_model(lora(), folder), resolve_model(chat, folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert resolve_model(lora(), folder) == plain and resolve_model(chat, folder).id != first.id


def test_a_hub_that_does_not_answer_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(ModelNotUsable, match="not found in the local cache, and the hub cannot be reached"):
        resolve_model(ModelSpec(id="org/nothing"), None)
    assert time.monotonic() - began < SECONDS + 2
