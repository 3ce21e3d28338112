"""Exported posteriors: plain PEFT gives the suite's predictions; the card says how."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support import bench, compute
from support import plan_few as plan
from tiny import LLAMA, build, byte_level, save
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.api import fit, open_model, predict
from bench.data.splits import DataSource, load_split
from bench.run.exports.card import card
from bench.run.exports.export import export
from bench.run.exports.offer import make_offer
from bench.run.stored import open_result
from bench.specs import key, seed_for
from bench.store.store import Store
from bench.task import TASKS, get_task

SETTINGS: dict[str, Any] = {
    "ivon": {"draws": 3},
    "ensemble": {"members": 2},
    "multi_swag": {"members": 2},
    "la_diag": {"evidence_steps": 10},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for method in ("adamw", "ivon", "mc_dropout", "temperature"):
        compute(plan(method, ivon={"draws": 3}), folder)
    return folder


def predicted(folder: Path, prompts: list[str]) -> torch.Tensor:
    """(N, C) log-probabilities by transformers and PEFT alone."""
    about = json.loads(
        (
            next(p for p in (folder, *folder.parents) if (p / "prediction.json").is_file()) / "prediction.json"
        ).read_text()
    )
    tokenizer = AutoTokenizer.from_pretrained(about["base"])
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(about["base"], dtype=torch.float32), folder
    ).eval()
    ids = list(about["answers"].values())
    with torch.no_grad():
        logits = [model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1, ids] for prompt in prompts]
    return (torch.stack(logits) / about["temperature"]).log_softmax(-1)


def stored(runs: Path, method: str) -> torch.Tensor:
    """(S, N, C) stored log-probabilities of the first examples."""
    run = plan(method, ivon={"draws": 3})
    return torch.from_numpy(Store(runs).predictions(run)["log_probs"])[:, :4]


PROMPTS = [example.prompt for example in load_split(get_task("few_two"), "validation", DataSource()).examples[:4]]


@pytest.mark.parametrize("method", ["adamw", "temperature"])
def test_the_mean_gives_the_stored_predictions(runs: Path, tmp_path: Path, method: str) -> None:
    result = open_result(runs, key(plan(method)))
    assert export(result, tmp_path / "out") == [f"wrote the mean to {tmp_path / 'out'}"]
    torch.testing.assert_close(predicted(tmp_path / "out", PROMPTS), stored(runs, method)[0], atol=1e-5, rtol=0)


def test_draws_give_the_stored_predictions_draw_by_draw(runs: Path, tmp_path: Path) -> None:
    result = open_result(runs, key(plan("ivon", ivon={"draws": 3})))
    export(result, tmp_path / "out", draws=3)
    theirs = stored(runs, "ivon")
    for number in range(3):
        ours = predicted(tmp_path / "out" / "draws" / f"{number:03}", PROMPTS)
        torch.testing.assert_close(ours, theirs[number], atol=1e-5, rtol=0)
    assert not (tmp_path / "out" / "draws" / "003").exists()


def test_a_fit_can_be_exported_without_an_evaluation(runs: Path, tmp_path: Path) -> None:
    result = open_result(runs, key(plan("ivon").fit))
    export(result, tmp_path / "out", draws=2)
    assert (tmp_path / "out" / "draws" / "001" / "adapter_model.safetensors").is_file()


def test_the_card_names_base_metrics_settings_and_licence(runs: Path, tmp_path: Path) -> None:
    export(open_result(runs, key(plan("adamw"))), tmp_path / "out", temperature=2.0)
    card = (tmp_path / "out" / "README.md").read_text()
    task = get_task("few_two")
    assert card.startswith("---\nbase_model: ") and "library_name: peft" in card
    for text in (task.title, task.licence, "| adamw |", "| mc_dropout |", "accuracy", '"steps": 8', " / temperature"):
        assert text in card
    assert json.loads((tmp_path / "out" / "prediction.json").read_text())["temperature"] == 2.0


def test_the_code_of_the_card_runs(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(open_result(runs, key(plan("adamw"))), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace("FOLDER", str(tmp_path / "out"))
    exec(code.replace('"... Answer:"', repr(PROMPTS[0])), {})
    said = capsys.readouterr().out
    probabilities = list(eval(said).values())
    torch.testing.assert_close(torch.tensor(probabilities), stored(runs, "adamw")[0, 0].exp(), atol=1e-5, rtol=0)


def said_by_the_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> torch.Tensor:
    """(C,) probabilities that the code of the card prints for the first prompt."""
    capsys.readouterr()
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0].replace("FOLDER", str(folder))
    exec(code.replace('"... Answer:"', repr(PROMPTS[0])), {})
    return torch.tensor(list(eval(capsys.readouterr().out).values()))


TEMPERED = "softmax(log(mean over draws of softmax(logits)) / T)"


@pytest.mark.parametrize(("method", "draws"), [("ivon_ts", 3), ("ensemble_ts", 2), ("adamw_ts", 0)])
def test_the_temperature_of_an_average_is_that_of_the_average(
    method: str, draws: int, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = plan(method, **SETTINGS)
    fitted = compute(run, runs).posterior(run.fit).temperature  # type: ignore[attr-defined]
    export(open_result(runs, key(run)), tmp_path / "out", draws=draws)
    about = json.loads((tmp_path / "out/prediction.json").read_text())
    assert about["temperature"] == 1 and about["temperature_of_average"] == fitted != 1
    card = (tmp_path / "out/README.md").read_text()
    assert TEMPERED in card and "is not the predictive" not in card and "logits / temperature" not in card
    wanted = torch.from_numpy(Store(runs).predictions(run)["log_probs"])[0, 0].exp()
    torch.testing.assert_close(said_by_the_code(tmp_path / "out", capsys), wanted, atol=1e-5, rtol=0)


def test_a_temperature_of_logits_has_the_card_it_had(runs: Path, tmp_path: Path) -> None:
    export(open_result(runs, key(plan("temperature"))), tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "at the end of the prompt / temperature, through a softmax" in card
    assert "average" not in card and "not the predictive" not in card and "another predictive" not in card
    about = json.loads((tmp_path / "out/prediction.json").read_text())
    assert about["temperature"] != 1 and about["temperature_of_average"] == 1


def test_a_temperature_that_is_given_takes_the_place_of_those_fitted(runs: Path, tmp_path: Path) -> None:
    run = plan("ivon_ts", **SETTINGS)
    compute(run, runs)
    export(open_result(runs, key(run)), tmp_path / "out", draws=3, temperature=2.0)
    about = json.loads((tmp_path / "out/prediction.json").read_text())
    assert (about["temperature"], about["temperature_of_average"]) == (2, 1)
    card = (tmp_path / "out/README.md").read_text()
    assert "**The average over these draws is not the predictive that was evaluated.** IVON + T takes" in card


def test_the_code_of_the_card_averages_the_draws(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(open_result(runs, key(plan("ivon", ivon={"draws": 3}))), tmp_path / "out", draws=3)
    assert "not the predictive" not in (tmp_path / "out/README.md").read_text()
    wanted = stored(runs, "ivon").exp().mean(0)[0]
    torch.testing.assert_close(said_by_the_code(tmp_path / "out", capsys), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("method", "draws", "sentence"),
    [
        ("ivon", 0, "The mean adapter alone is not the predictive that was evaluated.** IVON averages the probabil"),
        ("ivon", 2, "The average over these draws is not the predictive that was evaluated.** IVON averages the pr"),
        ("la_diag", 0, "The mean adapter alone is not the predictive that was evaluated.** LA (diag) predicts with"),
        ("la_diag", 2, "The average over these draws is not the predictive that was evaluated.** LA (diag) predicts"),
        ("la_diag_ts", 0, "The mean adapter alone is not the predictive that was evaluated.** LA (diag) + T predicts"),
        ("llla_ts", 0, "The mean adapter alone is not the predictive that was evaluated.** LA (last layer) + T predic"),
        ("mc_dropout", 0, "The mean adapter alone is not the predictive that was evaluated.** MC dropout averages"),
    ],
)
def test_the_card_says_when_its_recipe_is_not_what_was_evaluated(
    method: str, draws: int, sentence: str, runs: Path, tmp_path: Path
) -> None:
    run = plan(method, **SETTINGS)
    compute(run, runs)
    export(open_result(runs, key(run)), tmp_path / "out", draws=draws)
    card = (tmp_path / "out/README.md").read_text()
    assert f"**{sentence}" in card and f"* `{key(run)}`: {method} " in card
    assert method != "mc_dropout" or f"* `{key(plan('adamw'))}`" not in card, "AdamW's row is that of the mean"


def test_an_evaluation_of_a_plugin_that_is_not_loaded_is_told_apart(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.run.exports.card.is_method", lambda name: name != "mc_dropout")
    export(open_result(runs, key(plan("adamw"))), tmp_path / "out")
    said = f"* `{key(plan('mc_dropout'))}`: mc_dropout is a method of a plug-in that was not loaded for this card."
    assert said in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize("method", ["la_kfac", "la_kfac_ts", "swa", "swa_ts"])
def test_draws_are_of_the_posterior_where_the_method_predicts_without_any(
    method: str, runs: Path, tmp_path: Path
) -> None:
    run = plan(method, **SETTINGS, la_kfac={"tau": 0.5})
    posterior = compute(run, runs).posterior(run.fit)
    export(open_result(runs, key(run)), tmp_path / "out", draws=2)
    generator = torch.Generator().manual_seed(seed_for(run, "predict"))
    for number, wanted in enumerate(posterior.draws(2, generator, 1.0 if "swa" in method else 0.5)):
        found = load_file(tmp_path / f"out/draws/{number:03}/adapter_model.safetensors")
        assert all(torch.equal(found[f"base_model.model.{name}"], value) for name, value in wanted.items())
    assert len(list((tmp_path / "out/draws").iterdir())) == 2


def test_a_mixture_is_drawn_from_all_its_members(runs: Path, tmp_path: Path) -> None:
    run = plan("multi_swag", **SETTINGS)
    posterior = compute(run, runs).posterior(run.fit)
    export(open_result(runs, key(run.fit)), tmp_path / "out", draws=2)
    result = open_result(runs, key(run.fit))
    generator = torch.Generator().manual_seed(result.seed)
    for number, gaussian in enumerate(posterior):  # type: ignore[arg-type, var-annotated]
        (wanted,) = gaussian.draws(1, generator)
        found = load_file(tmp_path / f"out/draws/{number:03}/adapter_model.safetensors")
        assert all(torch.equal(found[f"base_model.model.{name}"], value) for name, value in wanted.items())


def test_the_folders_of_draws_can_be_entered_by_others(runs: Path, tmp_path: Path) -> None:
    export(open_result(runs, key(plan("ivon", ivon={"draws": 3}))), tmp_path / "out", draws=1)
    before = os.umask(0o022)
    os.umask(before)
    for path in (tmp_path / "out").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~before, path


@pytest.mark.parametrize(
    ("method", "options", "sentence"),
    [
        ("adamw", {"draws": 2}, "--draws 2: 'adamw' has 1."),
        ("adamw", {"draws": 1}, "--draws 1: 'adamw' has 1 value of the adapters, a point: .* Leave --draws out."),
        ("temperature", {"draws": 1}, "--draws 1: 'temperature' has 1 value of the adapters, a point"),
        ("adamw_ts", {"draws": 1}, "--draws 1: 'adamw_ts' has 1 value of the adapters, a point"),
        ("llla", {"draws": 1}, "--draws 1: 'llla' has 1 value of the adapters, a point"),
        ("mc_dropout", {"draws": 2}, "'mc_dropout' draws with the model at hand"),
        ("ensemble_ts", {"draws": 3}, "--draws 3: 'ensemble_ts' has 2. Give no more than that."),
        ("ensemble_ts", {}, "has no mean. Export draws of it with --draws N."),
        ("vbll", {}, "has neither a mean nor draws of the adapters, so 'vbll' has nothing to export"),
        ("vbll", {"draws": 2}, "has neither a mean nor draws of the adapters, so 'vbll' has nothing to export"),
        ("adamw", {"draws": -1}, "--draws -1"),
        ("adamw", {"temperature": 0.0}, "--temperature 0.0"),
        ("adamw", {"temperature": float("nan")}, "--temperature nan"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    method: str, options: dict[str, float], sentence: str, runs: Path, tmp_path: Path
) -> None:
    run = plan(method, **SETTINGS)
    compute(run, runs)
    with pytest.raises(ValueError, match=sentence.replace("-", "[-]")):
        export(open_result(runs, key(run)), tmp_path / "out", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_not_overwritten(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="name a new folder"):
        export(open_result(runs, key(plan("adamw"))), tmp_path)


def test_the_command(runs: Path, tmp_path: Path) -> None:
    said = bench("export", key(plan("adamw"))[:8], "--runs", str(runs), "--out", "out", cwd=tmp_path).stdout
    assert said == "wrote the mean to out\n" and (tmp_path / "out" / "README.md").is_file()


CHAT = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}[assistant] "


@pytest.mark.parametrize(("end", "prompt"), [("</s>", "plain"), ("", "chat"), ("</s>", "chat")])
def test_the_code_of_the_card_reads_a_prompt_as_the_suite_does(
    end: str, prompt: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tokenizer that puts an EOS after a text, and a template that has the BOS already."""
    tokenizer = byte_level("<s>", end)
    tokenizer.chat_template = CHAT
    base = save(tmp_path / "base", build("llama", LLAMA), tokenizer)
    pairs = [(f"Which is it, number {n}? Answer:", "AB"[n % 2]) for n in range(8)]
    model = open_model(base, prompt=prompt)
    fitted = fit(
        "adamw", model, pairs, answers=("A", "B"), settings={"steps": 20, "adamw": {"lr": 0.05}}, runs=tmp_path
    )
    export(fitted.result, tmp_path / "out", path=base)
    probabilities = predict(fitted, [PROMPTS[0]]).probabilities[0]
    said = said_by_the_code(tmp_path / "out", capsys)
    torch.testing.assert_close(said, torch.from_numpy(probabilities).float(), atol=1e-5, rtol=0)


def test_the_card_loads_the_pinned_revision_and_a_gguf_file(runs: Path) -> None:
    result = open_result(runs, key(plan("adamw")))
    offer = make_offer(result, 0, None)
    about = {
        "base": "owner/name",
        "revision": "0" * 40,
        "prompt": "plain",
        "closing_tokens": 0,
        "answers": {},
        "frame": None,
    }
    code = card(result, offer, about).split("```python\n")[1].split("```")[0]
    assert code.count('from_pretrained(about["base"], revision=about["revision"]') == 2
    code = card(result, offer, {**about, "base": "/models/x.gguf", "revision": None}).split("```python\n")[1]
    assert code.count('os.path.dirname(about["base"]), gguf_file=os.path.basename(about["base"])') == 2
    assert "import json, os, torch" in code


def test_a_fit_made_from_python_is_exported_with_its_answers(tmp_path: Path) -> None:
    pairs = [(f"Number {n}? Answer:", "AB"[n % 2]) for n in range(8)]
    fitted = fit("adamw", "embedded", pairs, answers=("A", "B"), settings={"steps": 2}, runs=tmp_path / "runs")
    TASKS._classes.pop(fitted.result.fit.data.task)  # as in another process
    asked = ("export", fitted.key, "--out", "out", "--runs", "runs")
    assert "pass the answers that they had (--answers A,B)" in bench(*asked, cwd=tmp_path, check=2).stderr
    bench(*asked, "--answers", "A, B", cwd=tmp_path)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_an_evaluation_on_a_task_that_is_not_loaded_is_listed_by_its_name(tmp_path: Path) -> None:
    run = plan("adamw")
    store = compute(run, tmp_path / "runs")
    compute(dataclasses.replace(run, data=plan("adamw", "notes_two").data), tmp_path / "runs")
    gone = TASKS._classes.pop("notes_two")
    try:
        export(open_result(store.root, key(run)), tmp_path / "out")
    finally:
        TASKS._classes["notes_two"] = gone
    assert "| adamw | notes_two |" in (tmp_path / "out" / "README.md").read_text()
