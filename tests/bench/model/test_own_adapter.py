"""An adapter made by plain PEFT outside the suite: the same logits, the methods on it, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from support import bench
from tiny import FAMILIES, build, byte_level, save
from transformers import AutoModelForCausalLM

from bench.errors import ModelNotUsable
from bench.method import get_method, is_method, method_names
from bench.model.answers import answer_tokens
from bench.model.formats import EMBEDDED
from bench.model.own_adapter import CONFIG, WEIGHTS, read_adapter
from bench.posterior import Point
from bench.store.records import read_records
from bench.store.store import Store
from bench.task import get_task

TASK = "few_two"


def made(base: Path, folder: Path, seed: int = 3, **config: Any) -> Any:
    """An adapter with no zero in it, made and saved by PEFT; returns PEFT's model."""
    module = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    chosen = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], **config}
    model = get_peft_model(module, LoraConfig(task_type="CAUSAL_LM", **chosen))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return model.eval()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "adapter"
    made(EMBEDDED, folder)
    return folder


def run(method: str, adapter: Path, runs: Path, *more: str, check: int = 0) -> Any:
    said = bench(
        "run", "--method", method, "--task", TASK, "--adapter", str(adapter), "--runs", str(runs), "--set", "steps=1",
        "--device", "cpu", *more, cwd=runs.parent, check=check,
    )  # fmt: skip
    if check:
        return said.stderr
    return next(record for record in read_records(runs)[0] if record.spec.method == method)


def by_peft(model: Any, tokenizer: Any, prompts: list[str]) -> torch.Tensor:
    ids = list(answer_tokens(tokenizer, get_task(TASK).answers, "base"))
    with torch.no_grad():
        logits = [model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1, ids] for prompt in prompts]
    return torch.stack(logits).double().log_softmax(-1)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True, "r": 3},
        {"use_dora": True},
        {"target_modules": r".*\.(up_proj|k_proj)"},
        {"layers_to_transform": [0]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "lm_head"], "use_dora": True},
        {"family": "mixtral"},
    ],
    ids=["lora", "rslora", "dora", "pattern", "one layer", "head", "dora head", "mixtral"],
)
def test_it_predicts_as_plain_peft_does(config: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from bench.data.splits import DataSource, load_split

    family = config.get("family", "llama")
    base = save(tmp_path / "base", build(family, FAMILIES[family][0]), byte_level())
    model = made(base, tmp_path / "adapter", **{name: value for name, value in config.items() if name != "family"})
    record = run("adapter", tmp_path / "adapter", tmp_path / "runs")
    prompts = [example.prompt for example in load_split(get_task(TASK), "validation", DataSource()).examples[:5]]
    store = Store(tmp_path / "runs")
    ours = torch.from_numpy(store.predictions(record.spec)["log_probs"])[0, :5].double()
    theirs = by_peft(model, AutoTokenizer.from_pretrained(base), prompts)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    plain = by_peft(AutoModelForCausalLM.from_pretrained(base).eval(), AutoTokenizer.from_pretrained(base), prompts)
    assert (theirs - plain).abs().max() > 1e-3, "the adapter does something"


def test_methods_start_from_it_and_nothing_is_trained(adapter: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    quick = ("--set", "tfb_adapter.draws=2", "--set", "tfb_adapter.search_draws=1")
    own = run("adapter", adapter, runs)
    store = Store(runs)
    point = store.posterior(own.spec.fit)
    assert isinstance(point, Point) and own.spec.fit.model.lora.r == 4 and own.spec.fit.model.lora.alpha == 6
    for method, more in (("temperature_adapter", ()), ("tfb_adapter", quick), ("la_diag_adapter", ())):
        record = run(method, adapter, runs, *more)
        (base,) = record.spec.fit.bases
        assert (base.method, base.options) == ("adapter", own.spec.fit.options)
        assert store.fit_facts(record.spec.fit)["steps"] == store.fit_facts(base)["steps"] == 0
    tempered = next(r for r in read_records(runs)[0] if r.spec.method == "temperature_adapter")
    assert store.fit_facts(tempered.spec.fit)["diagnostics"]["temperature"] > 0
    before, after = (torch.from_numpy(store.predictions(r.spec)["log_probs"]) for r in (own, tempered))
    divided = (before.double() / store.fit_facts(tempered.spec.fit)["diagnostics"]["temperature"]).log_softmax(-1)
    torch.testing.assert_close(after.double(), divided, rtol=0, atol=1e-5)


def test_a_method_that_starts_from_it_can_be_tempered(adapter: Path, tmp_path: Path) -> None:
    quick = ("--set", "tfb_adapter.draws=2", "--set", "tfb_adapter.search_draws=1")
    record = run("tfb_adapter_ts", adapter, tmp_path, *quick)
    store, fit = Store(tmp_path), record.spec.fit
    (base,) = fit.bases
    assert (base.method, base.bases[0].method) == ("tfb_adapter", "adapter")
    assert fit.options["draws"] == 2 and base.options["search_draws"] == fit.options["search_draws"] == 1
    assert store.fit_facts(fit)["steps"] == 0 and store.fit_facts(fit)["diagnostics"]["temperature"] > 0
    assert get_method("tfb_adapter_ts").title == "TFB (adapter) + T"
    plain, scaled = (run(name, adapter, tmp_path) for name in ("temperature_adapter", "adapter_ts"))
    one, other = (store.predictions(each.spec)["log_probs"] for each in (plain, scaled))
    assert abs(one - other).max() < 1e-5, "of a point, one temperature is the other"
    assert not any(map(is_method, ("adapter_ts_ts", "tfb_adapter_ts_ts", "tfb_ts_adapter", "swag_adapter_ts")))


def test_the_content_is_in_the_key_and_the_place_is_not(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "copy")
    made(EMBEDDED, tmp_path / "other", seed=4)
    keys = [run("adapter", place, tmp_path / f"runs{n}").key for n, place in enumerate((adapter, tmp_path / "copy"))]
    files = [tmp_path / f"runs{n}" / "evals" / keys[0] / "predictions.safetensors" for n in (0, 1)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert keys[0] == keys[1] != run("adapter", tmp_path / "other", tmp_path / "runs3").key


def test_what_the_suite_exports_it_reads(adapter: Path, tmp_path: Path) -> None:
    own = run("adapter", adapter, tmp_path / "runs")
    bench("export", own.key, "--out", "out", "--runs", "runs", cwd=tmp_path)
    again = run("adapter", tmp_path / "out", tmp_path / "again")
    assert again.metrics == own.metrics


def test_methods_with_another_start_have_no_form_on_an_adapter() -> None:
    assert "adapter" not in method_names() and is_method("adapter") and is_method("adapter_ts")
    assert not any(map(is_method, ("swag_adapter", "ivon_adapter", "ensemble_adapter", "adapter_adapter")))
    assert get_method("mc_dropout_adapter").base == "adapter"
    assert get_method("tfb_adapter").title == "TFB (adapter)" and get_method("tfb_adapter").settings_of == "tfb"


def edited(adapter: Path, folder: Path, **config: Any) -> Path:
    shutil.copytree(adapter, folder)
    read = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**read, **config}))
    return folder


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "IA3"}, "type IA3: the suite reads LoRA alone"),
        ({"bias": "all"}, 'bias = "all"'),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"init_lora_weights": "pissa"}, "changes the base's weights: convert it"),
        ({"use_dora": True, "use_rslora": True}, "one at a time"),
        ({"a_field_of_tomorrow": 1}, "a_field_of_tomorrow = 1"),
        ({"r": 0}, "lora.r is 0"),
    ],
)
def test_a_configuration_that_is_not_computed_is_refused(
    config: dict[str, Any], said: str, adapter: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotUsable) as refused:
        read_adapter(edited(adapter, tmp_path / "edited", **config))
    assert said in str(refused.value)


def test_an_adapter_of_embeddings_or_with_whole_weights_is_refused(tmp_path: Path) -> None:
    made(EMBEDDED, tmp_path / "embeddings", target_modules=["q_proj", "embed_tokens"])
    with pytest.raises(ModelNotUsable, match="adapts embeddings, which the suite does not support"):
        read_adapter(tmp_path / "embeddings")
    made(EMBEDDED, tmp_path / "resized")
    file = tmp_path / "resized" / WEIGHTS
    whole = {"base_model.model.lm_head.weight": torch.zeros(3, 3)}
    save_file(load_file(file) | whole, file, {"format": "pt"})
    said = run("adapter", tmp_path / "resized", tmp_path / "runs", check=1)
    assert "holds whole weights, such as lm_head.weight" in said


def test_what_does_not_fit_is_told_in_a_sentence(adapter: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert "lora.r is 8, and the adapter has 4" in run("adapter", adapter, runs, "--set", "lora.r=8", check=2)
    assert "no method starts from it: ask for adapter" in run("tfb", adapter, runs, check=2)
    assert "There is no folder" in run("adapter", tmp_path / "nowhere", runs, check=2)
    elsewhere = edited(adapter, tmp_path / "elsewhere", base_model_name_or_path="org/other-model")
    assert "was trained on org/other-model, and the base is embedded" in run(
        "adapter", elsewhere, runs, "--model", "embedded", check=2
    )
    (tmp_path / "pickled").mkdir()
    shutil.copy(adapter / CONFIG, tmp_path / "pickled")
    (tmp_path / "pickled" / "adapter_model.bin").touch()
    assert "pickled weights are refused" in run("adapter", tmp_path / "pickled", runs, check=2)
    missing = bench("run", "--method", "tfb_adapter", "--task", TASK, cwd=tmp_path, check=2)
    assert "'tfb_adapter' starts from an adapter of yours: name its folder with --adapter" in missing.stderr


def test_another_base_and_damaged_weights_are_refused_when_they_are_read(adapter: Path, tmp_path: Path) -> None:
    base = save(tmp_path / "base", build("llama", FAMILIES["llama"][0]), byte_level())
    said = run("adapter", adapter, tmp_path / "runs", "--model", str(base), check=1)
    assert "does not fit" in said and "is its base" in said
    broken = edited(adapter, tmp_path / "broken")
    tensors = load_file(broken / WEIGHTS)
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name] * float("nan")}, broken / WEIGHTS)
    assert "are not finite" in run("adapter", broken, tmp_path / "runs", check=1)
