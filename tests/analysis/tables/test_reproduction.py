"""The published table through our own code, and runs beside it."""

from __future__ import annotations

import csv
import dataclasses

import pytest

from analysis.records.load import load
from analysis.records.published import AVERAGE, FILE, METRICS, TABLES, digits, methods, published, tasks
from analysis.tables.formats.latex import latex
from analysis.tables.reproduction import comparisons, deviations
from analysis.tables.results import Cell, average, markdown
from bench.cli.main import main
from bench.specs import DataSpec, ModelSpec, TrainSpec

LLAMA = ModelSpec(
    id="meta-llama/Llama-2-7b-hf", revision="01c7f73d771dfac7d292323805ebc428287df4f9", quantization="int8",
    dtype="float16",
)  # fmt: skip
PAPER_IVON = {"lr": 0.03, "beta1": 0.9, "beta2": 0.99999, "clip_radius": 1e-3, "ess": 1e6, "h0": 1e-3}


def test_the_published_table_has_the_papers_layout(published_blocks):
    accuracy, ece, nll, brier = published_blocks
    assert accuracy.columns == ("wg_s", "arc_c", "arc_e", "wg_m", "obqa", "boolq", "average")
    assert accuracy.rows == ("adamw", "mc_dropout", "la_kfac", "la_diag", "swa", "swag", "ivon_mean", "ivon")
    lines = markdown(accuracy).splitlines()
    assert lines[4].split("|")[1:] == [
        " adamw      ", "            66.5 ± 0.4 ", "            66.7 ± 0.5 ", "            84.9 ± 0.2 ",
        "            73.5 ± 0.4 ", "            78.9 ± 0.7 ", "            85.8 ± 0.1 ", "            76.1 ", "",
    ]  # fmt: skip
    assert "**72.2** ± 0.5 (+5.7)" in lines[11] and lines[10].split("|")[-2].strip() == "**78.9** (+2.8)"
    assert [b.best("la_kfac", AVERAGE) for b in (accuracy, ece)] == [False, True]  # PROTOCOL 6: 7.3 is the best ECE
    assert nll.best("swag", AVERAGE) and markdown(nll).splitlines()[10].count(" - ") == 6  # ivon_mean: one is legible
    assert brier.cells["swag", AVERAGE].mean == 0.33
    text = latex("Published", [accuracy, ece, nll, brier])
    assert r"ivon\_mean & 72.1$_{0.5}$ (+5.6) & \textbf{69.9}$_{0.7}$ (+3.2)" in text
    assert text.count(r"\begin{table}") == 1 and text.count(r"\midrule") == 4


def recomputed_average(metric: str, method: str) -> float | None:
    """The mean of a published row's tasks; None where one is illegible."""
    figures = [published().get((metric, method, task)) for task in tasks()]
    cell = average([None if figure is None else Cell(figure.mean) for figure in figures])
    return None if cell is None else cell.mean


def test_published_averages_are_those_of_their_tasks_to_rounding():
    """Tasks are rounded to half a digit each, and the average once more: at most one digit in all."""
    odd, checked = [], 0
    for metric in METRICS.values():
        for method in methods():
            mean, printed = recomputed_average(metric, method), published().get((metric, method, AVERAGE))
            if mean is None or printed is None:
                continue
            checked += 1
            assert abs(mean - printed.mean) <= printed.step * (1 + 1e-9), (metric, method)
            if abs(mean - printed.mean) > printed.step / 2 * (1 + 1e-9):
                odd.append((metric, method))
    assert checked == 21 and odd == [("ece", "mc_dropout")]
    assert digits("ece") == 1 and digits("nll") == 2


def paper_run(store, method="ivon", task="arc_c", seed=21, **change):
    spec = store.spec(
        method, task, seed, fit_options=PAPER_IVON, options={"draws": 10, "tau": 1.0}, protocol="paper", variant="",
        model=change.pop("model", LLAMA),
    )  # fmt: skip
    fit = dataclasses.replace(spec.fit, train=TrainSpec(**change.pop("train", {})))
    return dataclasses.replace(spec, fit=fit, split="validation", **change)


def test_z_scores_and_verdicts(store, tmp_path, capsys):
    # ivon on arc_c: published accuracy 66.3 +- 0.6. Ours .670 .680 .690: mean .68, sem .01 / sqrt(3)
    for seed, value in zip((21, 42, 87), (0.67, 0.68, 0.69), strict=True):
        store.add(paper_run(store, seed=seed), {"accuracy": value, "nll": 1.2, "ece": 0.107, "brier": 0.5})
        store.add(paper_run(store, "ivon_mean", seed=seed), {"accuracy": 0.699, "nll": 1.0})
    found = {(c.metric, c.row, c.task): c for c in comparisons(load(store.root))}
    one = found["accuracy", "ivon", "arc_c"]
    assert one.difference == pytest.approx(0.017)
    assert one.z == pytest.approx(0.017 / (0.006**2 + 0.01**2 / 3) ** 0.5) and one.verdict == "outside"
    assert found["ece", "ivon", "arc_c"].z == pytest.approx(0) and found["ece", "ivon", "arc_c"].verdict == "within"
    gone = found["accuracy", "ivon", "wg_s"]
    assert (gone.ours, gone.difference, gone.z, gone.verdict) == (None, None, None, "")
    illegible = found["nll", "ivon_mean", "arc_c"]
    assert illegible.theirs is None and illegible.z is None and illegible.verdict == ""
    assert found["accuracy", "ivon", AVERAGE].ours is None  # five tasks are missing: no average
    assert main(["compare", "published", "--runs", str(store.root), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "68.0 vs 66.3 [+2.0] **outside**" in said
    assert "methods of the paper that were not run: adamw, mc_dropout, la_kfac, la_diag, swa, swag." in said
    rows = list(csv.DictReader((tmp_path / "out" / "published.csv").open()))
    assert [row["z"] for row in rows if row["metric"] == "accuracy" and row["verdict"]] == ["2.041634", "0.000000"]
    assert all(row["difference"] == "" for row in rows if not row["mean"])


def test_equal_to_the_last_digit_is_within_where_no_error_is_known(store):
    """Published 0.33 +- 0.00 for ivon's NLL on boolq, and ours without spread."""
    for name, nll in (("in", 0.334), ("out", 0.336)):
        for seed in (21, 42):
            run = paper_run(store, task="boolq", seed=seed)
            store.add(dataclasses.replace(run, variant=name), {"nll": nll})
    verdicts = {c.section.variant: (c.z, c.verdict) for c in comparisons(load(store.root)) if c.task == "boolq"}
    assert verdicts == {"in": (None, "within"), "out": (None, "outside")}


def test_deviations_are_read_from_the_records(store):
    store.add(paper_run(store), {"nll": 1.0})
    loaded = load(store.root)
    (section,) = loaded.sections
    said = deviations(section, loaded.results)
    assert [line for line in said if "in the paper" in line] == ["seeds: 21, 42, 87 in the paper, 21 here (all runs)."]
    change = {"train": {"steps": 50}, "model": ModelSpec()}
    other = dataclasses.replace(paper_run(store, **change), variant="small", split="test", protocol="clean")
    fit = dataclasses.replace(other.fit, options={**PAPER_IVON, "ess": 1e5})
    store.add(dataclasses.replace(other, fit=fit), {"nll": 1.0}, partial=True)
    loaded = load(store.root)
    section = next(s for s in loaded.sections if s.variant == "small")
    said = "\n".join(deviations(section, loaded.of(section)))
    for sentence in (
        "protocol: paper in the paper, clean here", "split: validation in the paper, test here",
        "id: meta-llama/Llama-2-7b-hf in the paper, embedded here", "quantization: int8 in the paper, none here",
        "steps: 10000 in the paper, 50 here (all runs).", "ivon.ess: 1e+06 in the paper, 100000 here",
        "flag partial: ivon on arc_c.",
    ):  # fmt: skip
        assert sentence in said
    assert "h0" not in said and "beta1" not in said


def test_nothing_to_compare_is_an_error(store, capsys):
    store.add(store.spec("adamw", "notes"), {"nll": 1.0})
    assert main(["compare", "published", "--runs", str(store.root)]) == 2
    assert "no result of a method and task of the paper" in capsys.readouterr().err


def test_ood_runs_are_not_compared(store):
    run = paper_run(store)
    store.add(run, {"accuracy": 0.5})
    store.add(dataclasses.replace(run, data=DataSpec(task="arc_e", version=1, revision="r")), {"accuracy": 0.9})
    found = [c for c in comparisons(load(store.root)) if c.ours is not None]
    assert [(c.task, c.ours.mean) for c in found if c.ours] == [("arc_c", 0.5)]


def test_the_shipped_figures_are_package_data():
    assert FILE.is_file()
    assert set(tasks()) == {"wg_s", "arc_c", "arc_e", "wg_m", "obqa", "boolq"}


def test_every_table_is_data_with_a_grid_of_its_settings_and_a_place_on_the_command_line(repository):
    offered = (repository / "bench" / "cli" / "results.py").read_text()
    for name, source in TABLES.items():
        assert f'"{name}"' in offered and (repository / "bench" / "grids" / source.grid).is_file()
        assert published(name) and methods(name) and tasks(name)


def test_a_table_of_averages_shows_differences_without_a_verdict(store, tmp_path, capsys):
    for task in tasks("polar"):
        for method, accuracy in (("adamw", 0.8), ("blob", 0.8142)):
            store.add(store.spec(method, task, 1, protocol="paper"), {"accuracy": accuracy, "nll": 0.9})
    found = {(c.metric, c.row, c.task): c for c in comparisons(load(store.root), "polar")}
    one = found["accuracy", "blob", AVERAGE]
    assert one.difference == pytest.approx(0.8142 - 0.7942) and (one.z, one.verdict) == (None, "")
    assert found["nll", "adamw", AVERAGE].difference == pytest.approx(0.9 - 1.75)
    assert found["accuracy", "blob", "wg_s"].theirs is None
    command = ["compare", "published", "--table", "polar", "--runs", str(store.root), "--out", str(tmp_path)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "Comparison with published averages for Llama-3.1-8B" in said and "Partial:" in said
    assert "81.42 vs 79.42" in said and "meta-llama/Llama-3.1-8B in the paper" in said
