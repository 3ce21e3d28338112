"""The whole report, its figures, and that none of it loads torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis import report
from analysis.figures import clock as figure_clock
from analysis.figures import results as figure_results
from analysis.figures import style
from analysis.figures import tau as figure_tau
from analysis.report import write_report
from analysis.statistics import curves
from analysis.statistics.study import study
from bench.cli.main import main

ROOT = Path(__file__).parents[2]
LABELS = np.array([0, 1] * 10)


def sharp(sharpness):
    """Log-probabilities that favour the right answers."""
    logits = np.random.default_rng(0).normal(size=(1, 20, 2)) + sharpness * np.eye(2)[LABELS]
    return (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))).astype(np.float32)


def fill(store, tasks=("one", "two"), seeds=(1, 2), **provenance):
    for task in tasks:
        for seed in seeds:
            generator = np.random.default_rng(seed)

            def predicted(sharpness, generator=generator):
                logits = generator.normal(size=(1, 20, 2)) + sharpness * np.eye(2)[LABELS]
                return (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))).astype(np.float32)

            trace = tuple(
                {"step": step, "seconds": step / 10 + seed / 100, "accuracy": step / 100, "nll": 1 - step / 200}
                for step in (0, 50, 100)
            )
            store.add(store.spec("optimum", task, seed), log_probs=predicted(3.0), labels=LABELS, trained=False)
            machine = provenance if seed > 1 else {}
            store.add(
                store.spec("adamw", task, seed),
                log_probs=predicted(1.0),
                labels=LABELS,
                trace=trace,
                provenance=machine,
            )
            for tau in (0.0, 0.5, 1.0):
                purpose = "result" if tau == 1 else "sweep"
                spec = store.spec("ivon", task, seed, options={"tau": tau}, purpose=purpose)
                store.add(spec, log_probs=predicted(2.0 - tau), labels=LABELS, trace=trace)


def test_report_is_whole(store, tmp_path, monkeypatch):
    monkeypatch.setitem(style.SETTINGS, "pdf.fonttype", 3)  # faster
    fill(store)
    files = write_report(store.root, tmp_path / "report")
    names = {file.name for file in files}
    assert {"tables.md", "results.csv", "differences.csv", "table1.csv", "table1.tex", "costs.csv"} < names
    for stem in ("results-clean-embedded", "tau-clean-embedded-tuned", "clock-clean-embedded-tuned"):
        assert {f"{stem}.png", f"{stem}.pdf"} < names
    assert all(file.stat().st_size > 0 for file in files)
    there = {file for file in (tmp_path / "report").rglob("*") if file.is_file()}
    assert there - {tmp_path / "report" / report.WRITTEN} == set(files)
    text = (tmp_path / "report" / "tables.md").read_text()
    for heading in ("## Results", "## Differences", "## Costs", "## Settings", "## Against the clock"):
        assert heading in text
    assert "nan" not in text


def test_a_report_takes_the_place_of_an_earlier_one_and_leaves_other_files(store, store_at, tmp_path):
    for seed in (1, 2):
        for tau in (0.0, 1.0):
            spec = store.spec("ivon", seed=seed, options={"tau": tau}, purpose="result" if tau else "sweep")
            store.add(spec, log_probs=sharp(2.0 - tau), labels=LABELS)
        store.add(store.spec("ivon", seed=seed, eval_task="far"), log_probs=sharp(1.0), labels=LABELS)
    out = tmp_path / "report"
    files = write_report(store.root, out, baseline="ivon")
    assert out / "tables/ood.csv" in files and out / "figures/tau-clean-embedded-tuned.png" in files
    (out / "figures/mine.png").write_bytes(b"")
    (out / report.WRITTEN).write_text((out / report.WRITTEN).read_text() + "../precious\ntables/../../precious\n")
    (tmp_path / "precious").write_text("kept")
    second = store_at(tmp_path / "second")
    second.add(second.spec("adamw"), log_probs=sharp(1.0), labels=LABELS)
    files = write_report(second.root, out)
    there = {file for file in out.rglob("*") if file.is_file()}
    assert there == {*files, out / report.WRITTEN, out / "figures/mine.png"} and (tmp_path / "precious").is_file()


def test_report_of_one_run(store, tmp_path):
    store.add(store.spec(variant="", model=None), {"accuracy": 0.5, "ece": 0.1, "nll": 1.0, "brier": 0.5})
    write_report(store.root, tmp_path / "report")
    text = (tmp_path / "report" / "tables.md").read_text()
    assert "## Not shown" in text and "No tau curves" in text and "no training was evaluated on its way" in text


def test_another_baseline_and_one_without_results(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "FIGURES", {})
    for method in ("adamw", "ivon"):
        store.add(store.spec(method))
    run = ["report", "--runs", str(store.root), "--out", str(tmp_path / "report"), "--baseline"]
    assert main([*run, "ivon"]) == 0
    rows = (tmp_path / "report" / "tables" / "differences.csv").read_text().splitlines()[1:]
    assert rows and all(",notes,adamw,ivon," in row for row in rows)
    text = (tmp_path / "report" / "tables.md").read_text()
    assert "(change against ivon)" in text and "differences to ivon" in text
    assert main([*run, "ivom"]) == 2
    said = capsys.readouterr().err
    assert "no result of the baseline 'ivom'" in said and "It has adamw, ivon." in said


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="holds no result"):
        write_report(tmp_path, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_tau_curves_join_sweep_and_result(store):
    fill(store)
    loaded = study(store.root)
    found = curves.curves([*loaded.runs.results, *loaded.runs.sweeps])
    assert [[tau for tau, _ in curve] for curve in found] == [[0.0, 0.5, 1.0]] * 2
    ((drawn,), notes) = figure_tau.draw(loaded, loaded.sections[0])
    assert notes == [] and "2 seeds" in drawn.caption
    error, nll = drawn.figure.axes[:2]
    assert error.get_title() == "one" and nll.get_xlabel() == "τ"
    line = next(line for line in error.lines if line.get_label() == "IVON")
    ivon = next(curve for curve in found if curve[0][1].task == "one")
    assert line.get_ydata() == pytest.approx([100 * (1 - np.mean(group.values("accuracy"))) for _, group in ivon])
    assert {line.get_label() for line in error.lines} >= {"IVON", "AdamW", "optimum"}


def test_results_figure_has_every_method_and_no_empty_panel(store):
    fill(store)
    ((drawn,), _) = figure_results.draw(whole := study(store.root), whole.sections[0])
    for axes in drawn.figure.axes:
        (points,) = axes.containers  # of one variant
        assert len(points.lines[0].get_ydata()) == 2  # adamw and ivon; the optimum is a line
    for axes in drawn.figure.axes[::3]:
        assert [text.get_text() for text in axes.get_yticklabels()] == ["AdamW", "IVON"]


def test_clock_figure_averages_the_seeds(store):
    fill(store, tasks=("one",))
    ((drawn,), notes) = figure_clock.draw(whole := study(store.root), whole.sections[0])
    assert notes == []
    line = next(line for line in drawn.figure.axes[0].lines if line.get_label() == "AdamW")
    assert line.get_xdata() == pytest.approx([0.015, 5.015, 10.015])
    assert line.get_ydata() == pytest.approx([0.0, 50.0, 100.0])


def test_clock_figure_refuses_mixed_machines(store):
    fill(store, tasks=("one",), device="Sliderule")
    drawn, notes = figure_clock.draw(whole := study(store.root), whole.sections[0])
    assert drawn == [] and "mixes machines" in notes[0] and "Sliderule" in notes[0]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["report", "leaderboard", "compare published"])
def test_the_commands_never_load_torch(store, tmp_path, command):
    for method in ("adamw", "ivon"):
        for task in ("arc_c", "arc_e"):
            for seed in (1, 2):
                store.add(store.spec(method, task, seed))
                store.add(store.spec(method, task, seed, eval_task="obqa"))
    out = tmp_path / ("l.csv" if command == "leaderboard" else "out")
    code = (
        "import sys; from bench.cli.main import main;"
        f"status = main({[*command.split(), '--runs', str(store.root), '--out', str(out)]!r});"
        "loaded = {name.split('.')[0] for name in sys.modules};"
        "sys.exit(status or ', '.join(loaded & {'torch', 'transformers', 'peft', 'methods', 'tasks'}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert out.exists()


def test_analysis_never_loads_torch():
    code = (
        "import sys, analysis.report, analysis.tables.leaderboard, safetensors.numpy, plotly.offline;"
        "loaded = {name.split('.')[0] for name in sys.modules};"
        "sys.exit(', '.join(loaded & {'torch', 'transformers', 'peft', 'methods', 'tasks', 'pandas'}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
