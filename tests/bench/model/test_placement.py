"""A base spread over devices: offloaded layers on any machine, and two devices where there is a GPU."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from support import bench, compute, result_bytes
from support import plan_few as plan
from tiny import CPU, one_batch

from bench.errors import ModelNotUsable
from bench.model.choice_model import ChoiceModel, load_model
from bench.model.placement import check_accelerate, read_device_map
from bench.run.execution import Execution, pack, unpack
from bench.specs import LoraSpec, ModelSpec

PARTS = ("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.layers.1", "model.norm", "lm_head")
OFFLOADED = {part: "disk" if part in ("model.layers.1", "lm_head") else "cpu" for part in PARTS}
METHODS = ("adamw", "la_kfac", "llla", "blob")  # one of each way to use the model
MORE = ("ivon", "swag", "la_diag", "vbll", "scalabl", "tfb")


def gradients(model: ChoiceModel) -> list[torch.Tensor]:
    model.prepare(("A", "B"), seed=0)
    labels = torch.tensor([0, 1, 0, 1], device=model.device)
    loss = torch.nn.functional.cross_entropy(model.logits(one_batch(model)), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    return [p.grad.cpu() for p in model.params.values() if p.grad is not None]


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("q_proj", "head")])
def test_offloaded_layers_answer_and_learn_with_the_same_bytes(targets: tuple[str, ...]) -> None:
    spec = ModelSpec(lora=LoraSpec(targets=targets))
    plain, spread = load_model(spec, None, CPU), load_model(spec, None, CPU, OFFLOADED)
    assert any(p.is_meta for p in spread._base.parameters()) and not any(p.is_meta for p in spread.params.values())
    found = [gradients(model) for model in (plain, spread)]
    assert found[0] and all(map(torch.equal, *found))
    batch = one_batch(plain)
    for read in (ChoiceModel.logits, ChoiceModel.features):
        assert torch.equal(read(plain, batch), read(spread, batch))
    assert all(map(torch.equal, plain.last_layer(batch), spread.last_layer(batch)))
    assert spread.guard().restore() == []


@pytest.mark.parametrize("method", METHODS)
def test_offloading_changes_no_byte_of_a_result(method: str, tmp_path: Path) -> None:
    run = plan(method, "colours")
    plain = compute(run, tmp_path / "plain")
    spread = compute(run, tmp_path / "spread", device_map=OFFLOADED, recompute=method == "adamw")
    assert result_bytes(plain, run) == result_bytes(spread, run)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="two devices: a GPU and the CPU")
@pytest.mark.parametrize("method", METHODS + MORE)
def test_layers_on_two_devices_give_the_numbers_of_one(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate would copy the CPU's layers to the GPU for each pass; here they compute where they are."""
    import accelerate.big_modeling
    import transformers.integrations.accelerate

    dispatch = functools.partial(accelerate.big_modeling.dispatch_model, main_device="cpu")
    monkeypatch.setattr(transformers.integrations.accelerate, "dispatch_model", dispatch)
    two: Mapping[str, str | int] = {part: 0 if part in ("model.layers.1", "model.norm") else "cpu" for part in PARTS}
    model = load_model(ModelSpec(), None, CPU, two)
    assert {p.device.type for p in model.params.values()} == {"cpu", "cuda"}
    run = plan(method, "colours")
    plain, spread = compute(run, tmp_path / "plain"), compute(run, tmp_path / "spread", device_map=two)
    one, other = (store.record(run).metrics["nll"] for store in (plain, spread))
    assert other == pytest.approx(one, rel=1e-3)


def test_dora_of_offloaded_weights_is_refused() -> None:
    with pytest.raises(ModelNotUsable, match=r"DoRA reads the weights .* offloads such as model\.layers\.1\.self_attn"):
        load_model(ModelSpec(lora=LoraSpec(variant="dora")), None, CPU, OFFLOADED)


def test_what_names_no_map_is_refused(tmp_path: Path) -> None:
    assert read_device_map("balanced") == "balanced"
    (tmp_path / "map.json").write_text(json.dumps(OFFLOADED))
    assert read_device_map(str(tmp_path / "map.json")) == OFFLOADED
    with pytest.raises(ValueError, match=r"--device-map 'gpus': use auto, balanced, sequential, or a \.json file"):
        read_device_map("gpus")
    with pytest.raises(ValueError, match="it cannot be read"):
        read_device_map(str(tmp_path / "none.json"))
    for text in ("[1]", "{}", '{"lm_head": 1.5}', '{"lm_head": true}', "{"):
        (tmp_path / "map.json").write_text(text)
        with pytest.raises(ValueError, match="--device-map"):
            read_device_map(str(tmp_path / "map.json"))


def test_accelerate_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    check_accelerate()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelNotUsable, match=r"needs accelerate: pip install 'bayes-lora-bench\[large\]'"):
        check_accelerate()


def test_the_option_reaches_the_loading_and_excludes_what_cannot_work(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(json.dumps(OFFLOADED))
    call = ("run", "--method", "adamw", "--task", "colours", "--set", "steps=2", "--device-map", "map.json")
    key = bench(*call, cwd=tmp_path).stdout
    assert bench(*call[:-2], "--device", "cpu", cwd=tmp_path).stdout == key, "the map is in no key"
    (tmp_path / "map.json").write_text('{"model": "disk"}')
    said = bench(*call, "--seed", "1", cwd=tmp_path, check=None).stderr
    assert "lm_head" in said and "cannot be loaded" in said
    (tmp_path / "map.json").write_text(json.dumps(OFFLOADED))
    said = bench(*call, "--seed", "1", "--compile", cwd=tmp_path, check=2).stderr
    assert "--compile and --device-map exclude each other" in said
    said = bench(*call, "--device", "cpu", cwd=tmp_path, check=2).stderr
    assert "leave out --device" in said
    (tmp_path / "g.toml").write_text('methods = ["adamw"]\ntasks = ["colours"]\nseeds = [1]\n')
    said = bench("grid", "g.toml", "--device-map", "auto", "--workers", "2", cwd=tmp_path, check=2).stderr
    assert "each worker would load its own base" in said
    execution = Execution(device_map=OFFLOADED)
    assert unpack(json.loads(json.dumps(pack(execution)))) == execution
