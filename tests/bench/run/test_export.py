"""Exported posteriors: plain PEFT gives the suite's predictions; the card says how."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from support import bench, compute
from support import plan_few as plan
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.data.splits import DataSource, load_split
from bench.run.export import export
from bench.run.stored import open_result
from bench.specs import key
from bench.store.store import Store
from bench.task import get_task


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


@pytest.mark.parametrize(
    ("method", "options", "sentence"),
    [
        ("adamw", {"draws": 2}, "--draws 2: 'adamw' has 1."),
        ("adamw", {"draws": -1}, "--draws -1"),
        ("adamw", {"temperature": 0.0}, "--temperature 0.0"),
        ("adamw", {"temperature": float("nan")}, "--temperature nan"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    method: str, options: dict[str, float], sentence: str, runs: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=sentence.replace("-", "[-]")):
        export(open_result(runs, key(plan(method))), tmp_path / "out", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_not_overwritten(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="name a new folder"):
        export(open_result(runs, key(plan("adamw"))), tmp_path)


def test_the_command(runs: Path, tmp_path: Path) -> None:
    said = bench("export", key(plan("adamw"))[:8], "--runs", str(runs), "--out", "out", cwd=tmp_path).stdout
    assert said == "wrote the mean to out\n" and (tmp_path / "out" / "README.md").is_file()
