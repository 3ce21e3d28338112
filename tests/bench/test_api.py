"""The Python API: a fit on a model in memory, predictions, metrics, and the stored posterior again."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from support import bench, compute, plan
from tiny import FAMILIES, LLAMA, build, byte_level, save
from transformers import AutoModelForCausalLM

from bench.api import Fitted, evaluate, fit, load_posterior, open_model, predict
from bench.data.splits import DataSource, load_split
from bench.errors import ModelNotUsable
from bench.metrics import mixture
from bench.model.identity import check_place
from bench.specs import LoraSpec, ModelSpec, key
from bench.store.store import Store
from bench.task import Example, get_task, task_names

ANSWERS = ("A", "B")
PAIRS = [(f"Which is it, number {n}? Choices: A. odd B. even Answer:", ANSWERS[n % 2]) for n in range(12)]
SETTINGS = {"steps": 3, "ivon": {"draws": 2}, "tfb": {"draws": 2, "search_draws": 1}}


def module() -> torch.nn.Module:
    return build("llama", LLAMA)


def fitted(method: str, folder: Path, seed: int = 0) -> Fitted:
    return fit(
        method, module(), PAIRS, answers=ANSWERS, tokenizer=byte_level(), settings=SETTINGS, seed=seed, runs=folder
    )


@pytest.mark.parametrize("method", ["adamw", "ivon", "temperature", "zero_shot"])
def test_a_fit_in_memory_predicts_and_is_found_again(method: str, tmp_path: Path) -> None:
    one = fitted(method, tmp_path)
    found = predict(one, [prompt for prompt, _ in PAIRS])
    assert found.probabilities.shape == (12, 2)
    np.testing.assert_allclose(found.probabilities.sum(1), 1.0, atol=1e-6)
    metrics = evaluate(one, PAIRS)
    labels = np.array([ANSWERS.index(answer) for _, answer in PAIRS])
    assert metrics["accuracy"] == pytest.approx((found.probabilities.argmax(1) == labels).mean())
    assert metrics["nll"] == pytest.approx(-np.log(found.probabilities[range(12), labels]).mean(), rel=1e-6)
    stored = load_posterior(tmp_path, one.key, model=module(), tokenizer=byte_level())
    assert stored.posterior.kind == one.posterior.kind
    if method != "ivon":  # of a fit alone; ivon's draws are those of its options here
        np.testing.assert_array_equal(predict(stored, [PAIRS[0][0]]).log_probs, predict(one, [PAIRS[0][0]]).log_probs)


def test_the_same_call_gives_the_stored_posterior_and_another_seed_another(tmp_path: Path) -> None:
    first, again, other = fitted("adamw", tmp_path), fitted("adamw", tmp_path), fitted("adamw", tmp_path, seed=1)
    assert key(first.result.fit) == key(again.result.fit) != key(other.result.fit)
    for name, value in first.posterior.mean.items():
        assert torch.equal(value, again.posterior.mean[name])
    assert len(list((tmp_path / "fits").iterdir())) == 2


def test_one_model_serves_many_fits_and_a_second_opening_is_refused() -> None:
    raw, tokenizer = module(), byte_level()
    model = open_model(raw, tokenizer, lora=LoraSpec(r=2))
    points = [fit("adamw", model, PAIRS, answers=ANSWERS, settings={"steps": 2}, seed=seed) for seed in (0, 1)]
    assert {value.shape[0] for name, value in points[0].posterior.mean.items() if "lora_A" in name} == {2}
    found = [predict(point, [PAIRS[0][0]]).log_probs for point in (*points, points[0])]
    assert not np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    with pytest.raises(ModelNotUsable, match="has adapters already: open it once with open_model"):
        open_model(raw, tokenizer)


def test_a_model_in_memory_computes_as_its_folder_does(tmp_path: Path) -> None:
    folder = save(tmp_path / "base", build("llama", FAMILIES["llama"][0]), byte_level())
    results = []
    for model, tokenizer in ((build("llama", FAMILIES["llama"][0]), byte_level()), (folder, None)):
        one = fit("adamw", model, PAIRS, answers=ANSWERS, tokenizer=tokenizer, settings={"steps": 3}, device="cpu")
        results.append(predict(one, [PAIRS[0][0]]).log_probs)
    np.testing.assert_array_equal(*results)


def test_it_predicts_as_the_command_line_does(tmp_path: Path) -> None:
    run = plan("ivon", ivon={"draws": 3})
    compute(run, tmp_path / "runs")
    one = load_posterior(tmp_path / "runs", key(run), device="cpu")
    examples = load_split(get_task("notes_two"), "validation", DataSource()).examples
    stored = Store(tmp_path / "runs").predictions(run)["log_probs"]
    np.testing.assert_allclose(predict(one, examples).probabilities, np.exp(mixture(stored)), atol=1e-6)
    record = Store(tmp_path / "runs").record(run)
    assert evaluate(one, examples)["nll"] == pytest.approx(record.metrics["nll"], abs=1e-6)


def test_examples_in_memory_are_no_listed_task_and_need_their_answers_in_another_process(tmp_path: Path) -> None:
    one = fitted("adamw", tmp_path)
    name = one.result.fit.data.task
    assert name not in task_names() and get_task(name).answers == ANSWERS
    script = (
        "import sys\n"
        "from bench.api import load_posterior\n"
        "for answers in (None, ('A', 'C'), ('A', 'B')):\n"
        "    try: print(load_posterior(sys.argv[1], sys.argv[2], answers=answers).answers)\n"
        "    except (LookupError, ValueError) as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), one.key], capture_output=True, text=True, check=True
    )
    first, second, third = done.stdout.splitlines()
    assert "pass the answers that they had" in first and "are not those" in second and third == "('A', 'B')"


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"examples": [("x Answer:", "C")]}, ValueError, "has the answer 'C': the answers are A, B"),
        ({"examples": ["x Answer:"]}, ValueError, "give \\(prompt, answer\\)"),
        ({"examples": []}, ValueError, "There are no examples"),
        ({"examples": [Example("x Answer:", 2)]}, ValueError, "Example 0: label 2 is not one of the 2 answers"),
        ({"examples": [("half \ud800 Answer:", "A")]}, ValueError, "Example 0: the prompt is not valid Unicode"),
        ({"method": "ivno"}, LookupError, "There is no method 'ivno'"),
        ({"settings": {"stepz": 3}}, LookupError, "There is no setting 'stepz'"),
        ({"seed": -1}, ValueError, "seed"),
        ({"tokenizer": None}, ModelNotUsable, "needs its tokenizer"),
        ({"model": 7}, ModelNotUsable, "is a int"),
        ({"answers": "AB"}, ValueError, "answers is a single string, 'AB': pass a list"),
        ({"model": module().double()}, ModelNotUsable, "is in float64: convert it to float32, bfloat16, float16"),
    ],
)
def test_wrong_input_is_told_before_any_work(change: dict[str, object], error: type[Exception], said: str) -> None:
    given = {"method": "adamw", "model": module(), "examples": PAIRS, "tokenizer": byte_level(), "settings": SETTINGS}
    with pytest.raises(error, match=said):
        fit(**{"answers": ANSWERS, **given, **change})  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.slow
def test_the_command_line_predicts_with_a_fit_made_here(tmp_path: Path) -> None:
    one = fit("adamw", "embedded", PAIRS, answers=ANSWERS, settings={"steps": 2}, runs=tmp_path, device="cpu")
    (tmp_path / "q.jsonl").write_text(json.dumps({"prompt": PAIRS[0][0]}) + "\n")
    call = [sys.executable, "-m", "bench", "predict", one.key, "--file", "q.jsonl", "--runs", ".", "--device", "cpu"]
    more: list[list[str]] = [[], ["--answers", "A, B"]]
    done = [subprocess.run([*call, *words], cwd=tmp_path, capture_output=True, text=True) for words in more]
    assert done[0].returncode == 2 and "(--answers A,B)" in done[0].stderr
    row = json.loads(done[1].stdout)
    expected = predict(one, [PAIRS[0][0]]).probabilities[0]
    np.testing.assert_allclose(list(row["probabilities"].values()), expected, atol=1e-6)


def test_a_method_that_shares_the_fit_predicts_with_it(tmp_path: Path) -> None:
    one = fitted("ivon", tmp_path)
    model = open_model(module(), byte_level())
    drawn = load_posterior(tmp_path, one.key, model=model, method="ivon", settings={"ivon": {"draws": 3}})
    prompts = [PAIRS[0][0]]
    assert predict(drawn, prompts).log_probs.shape == (3, 1, 2)
    np.testing.assert_array_equal(predict(drawn, prompts).log_probs[:2], predict(one, prompts).log_probs)
    mean = load_posterior(tmp_path, one.key, model=model, method="ivon_mean")
    assert predict(mean, prompts).log_probs.shape == (1, 1, 2)
    with pytest.raises(ValueError, match=r"'tfb' predicts with a fit of 'tfb', and .* is one of 'ivon'"):
        load_posterior(tmp_path, one.key, method="tfb")
    with pytest.raises(ValueError, match="The model is some/model, and the fit was made on memory:"):
        load_posterior(tmp_path, one.key, model="some/model")


def test_an_adapter_of_peft_starts_a_posterior(tmp_path: Path) -> None:
    adapter = get_peft_model(module(), LoraConfig(r=3, target_modules=["q_proj", "o_proj"], lora_alpha=5))
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    adapter.save_pretrained(tmp_path / "adapter")
    given: dict[str, Any] = {"answers": ANSWERS, "settings": SETTINGS, "adapter": tmp_path / "adapter"}
    points = [fit(name, module(), PAIRS, tokenizer=byte_level(), **given) for name in ("adapter", "tfb_adapter")]
    assert points[0].result.fit.model.lora.targets == ("o_proj", "q_proj") and points[1].facts["steps"] == 0
    (base,) = points[1].result.fit.bases
    assert base == dataclasses.replace(points[0].result.fit, holdout=base.holdout)
    assert predict(points[1], [PAIRS[0][0]]).log_probs.shape == (2, 1, 2)
    with pytest.raises(ValueError, match="no method starts from it"):
        fit("adamw", module(), PAIRS, tokenizer=byte_level(), **given)


def test_another_model_is_refused(tmp_path: Path) -> None:
    one = fitted("adamw", tmp_path)
    other = build("llama", {**LLAMA, "intermediate_size": 40})
    with pytest.raises(ValueError, match="the fit was made on memory:"):
        load_posterior(tmp_path, one.key, model=other, tokenizer=byte_level())
    with pytest.raises(ModelNotUsable, match="was given in memory: give it again"):
        predict(load_posterior(tmp_path, one.key), [PAIRS[0][0]])
    (tmp_path / "q.jsonl").write_text('{"prompt": "Which? Answer:"}\n')
    said = bench("predict", one.key, "--file", "q.jsonl", "--runs", ".", cwd=tmp_path, check=2)
    assert "was given in memory" in said.stderr


def test_the_model_that_was_saved_since_is_the_same_and_another_folder_is_not(tmp_path: Path) -> None:
    raw, tokenizer, prompt = module(), byte_level(), PAIRS[0][0]
    one = fit(
        "adamw", open_model(raw, tokenizer), PAIRS, answers=ANSWERS, settings={"steps": 3}, runs=tmp_path / "runs"
    )
    wanted = predict(one, [prompt]).log_probs
    same = save(tmp_path / "same", module(), byte_level())
    np.testing.assert_array_equal(
        predict(load_posterior(tmp_path / "runs", one.key, model=same), [prompt]).log_probs, wanted
    )
    loaded = AutoModelForCausalLM.from_pretrained(same)
    again = load_posterior(tmp_path / "runs", one.key, model=loaded, tokenizer=byte_level())
    np.testing.assert_array_equal(predict(again, [prompt]).log_probs, wanted)
    other = module()
    with torch.no_grad():
        other.get_input_embeddings().weight[0, 0] += 1
    save(tmp_path / "other", other, byte_level())
    with pytest.raises(ModelNotUsable, match="and this one has other weights"):
        predict(load_posterior(tmp_path / "runs", one.key, model=tmp_path / "other"), [prompt])
    said = bench("export", one.key, "--model", "other", "--out", "out", "--runs", "runs", cwd=tmp_path, check=2)
    assert "and this one has other weights" in said.stderr and not (tmp_path / "out").exists()


def test_a_folder_in_place_of_a_base_of_the_hub_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit_of = dataclasses.replace(ModelSpec(), id="owner/name", revision="0" * 40)
    for path, same in ((tmp_path / "base", False), (tmp_path / "snapshots" / ("0" * 40), True)):
        if same:
            check_place(fit_of, path)
        else:
            with pytest.raises(ModelNotUsable, match=r"was made on owner/name at 0+, and nothing shows that .*base"):
                check_place(fit_of, path)
    snapshot = tmp_path / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    monkeypatch.chdir(snapshot)
    check_place(fit_of, Path())
    with pytest.raises(ModelNotUsable, match=r"was made on the embedded base, .* leave out --model"):
        check_place(ModelSpec(revision="r"), tmp_path)


def test_a_model_that_was_opened_in_another_form_is_told_which(tmp_path: Path) -> None:
    one = fitted("adamw", tmp_path)
    form = one.result.fit.model.lora
    other = open_model(module(), byte_level(), lora=dataclasses.replace(form, r=form.r + 1))
    with pytest.raises(ValueError, match=r"was opened with lora = .*, and the fit has .*: open it with that"):
        load_posterior(tmp_path, one.key, model=other)


def test_examples_and_prompts_are_checked_before_anything_is_computed(tmp_path: Path) -> None:
    one = fitted("adamw", tmp_path)
    prompt = PAIRS[0][0]
    for label in (-1, 2):
        with pytest.raises(ValueError, match=f"Example 0: label {label} is not one of the 2 answers"):
            evaluate(one, [Example(prompt, label)])
    whole = evaluate(one, [Example(prompt, np.int64(1))])  # type: ignore[arg-type]
    assert whole == evaluate(one, [(prompt, "B")])
    with pytest.raises(ValueError, match="prompts is a single string: pass a list"):
        predict(one, prompt)
    with pytest.raises(ValueError, match="No prompts were given"):
        predict(one, [])
    for wrong in (7, "half \ud800 Answer:"):
        with pytest.raises(ValueError, match=r"Example 1: .*prompt"):
            predict(one, [prompt, wrong])  # type: ignore[list-item]


def test_a_prediction_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    one = fitted("mc_dropout", tmp_path)
    before = torch.get_rng_state()
    predict(one, [PAIRS[0][0]])
    assert torch.equal(torch.get_rng_state(), before)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    one = fit("adamw", "embedded", PAIRS, answers=ANSWERS, settings={"steps": 2}, runs=tmp_path, device="cpu")
    bench("export", one.key, "--out", "adapter", "--runs", ".", cwd=tmp_path)
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "some/other-model"}))
    with pytest.raises(ModelNotUsable, match="was trained on some/other-model, and the base is embedded"):
        fit("adapter", "embedded", PAIRS, answers=ANSWERS, adapter=tmp_path / "adapter", device="cpu")


def test_another_chat_template_is_another_model() -> None:
    def identity(template: str, prompt: str) -> str:
        tokenizer = byte_level()
        tokenizer.chat_template = template
        return open_model(module(), tokenizer, prompt=prompt).spec.id

    templates = ("{{ messages[0].content }}", "Q: {{ messages[0].content }} A:")
    assert len({identity(template, "chat") for template in templates}) == 2
    assert len({identity(template, "plain") for template in templates}) == 1
