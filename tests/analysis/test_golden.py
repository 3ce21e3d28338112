"""Every table, statistic and CSV of a small store with known answers, byte for byte.

All predictions of a run have one confidence p, h of its N = 20 examples are right, and the label is always answer 0, so
every metric has a closed form.
``BENCH_WRITE_GOLDEN=1 pytest tests/analysis/test_golden.py`` writes the files anew: read the difference first.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import report
from analysis.records.load import load
from analysis.report import write_report
from bench.specs import DataSpec, key

GOLDEN = Path(__file__).parent / "golden"
FILES = (
    "results.csv", "table1.csv", "table1.tex", "costs.csv", "metrics.csv", "ranks.csv", "ood.csv", "differences.csv",
    "tables.md",
)  # fmt: skip
N = 20
# method -> (confidence, right by task, each for seeds 1 and 2)
RUNS = {
    "optimum": (0.95, {"one": (19, 19), "two": (19, 19)}),
    "adamw": (0.9, {"one": (14, 16), "two": (12, 14)}),
    "la_kfac": (0.7, {"one": (14, 15), "two": (13, 13)}),
    "ivon": (0.8, {"one": (16, 17), "two": (15, 16)}),
}


def predicted(confidence: float, right: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """(S, N, 2) log-probabilities, in draws that scatter around p and average to it, for the right answer first."""
    spread = np.linspace(-0.05, 0.05, draws) if draws > 1 else np.zeros(1)
    p = np.repeat((confidence + spread)[:, None], N, axis=1)
    p[:, right:] = 1 - p[:, right:]
    return np.log(np.stack([p, 1 - p], axis=-1)).astype(np.float32), np.zeros(N, np.int64)


def fill(store: Any) -> None:
    for method, (confidence, by_task) in RUNS.items():
        for task, hits in by_task.items():
            for seed, right in zip((1, 2), hits, strict=True):
                base = store.spec("adamw", task, seed).fit
                spec = store.spec(
                    method, task, seed, options={"draws": 3} if method == "ivon" else {},
                    bases=(base,) if method == "la_kfac" else (),
                )  # fmt: skip
                log_probs, labels = predicted(confidence, right, 3 if method == "ivon" else 1)
                truth = predicted(0.95, N, 1)[0][0].astype(np.float64)
                trained = method in ("adamw", "ivon")
                seconds = 10.0 * seed if method == "adamw" else 12.0 * seed
                store.add(spec, log_probs=log_probs, labels=labels, truth=truth, trained=trained, train_seconds=seconds)
                if method in ("adamw", "ivon") and task == "one":
                    away = dataclasses.replace(spec, data=DataSpec(task="two", version=1, revision="r"))
                    log_probs, labels = predicted(confidence - 0.1, right - 2, 3 if method == "ivon" else 1)
                    store.add(away, log_probs=log_probs, labels=labels, train_seconds=seconds)


@pytest.fixture(scope="module")
def golden(store_at, tmp_path_factory) -> Path:
    """The report of the store, its figures left out."""
    store = store_at(tmp_path_factory.mktemp("golden") / "runs")
    fill(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "FIGURES", {})
        write_report(store.root, store.root.parent / "report")
    return store.root.parent / "report"


@pytest.mark.parametrize("name", FILES)
def test_golden(golden: Path, name: str) -> None:
    found = (golden / ("" if name == "tables.md" else "tables") / name).read_bytes()
    if os.environ.get("BENCH_WRITE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        (GOLDEN / name).write_bytes(found)
    assert found.decode() == (GOLDEN / name).read_text()


def closed_form(p: float, right: int) -> dict[str, float]:
    """What a run of confidence p with ``right`` of N right must score."""
    a = right / N
    nll = -(a * math.log(p) + (1 - a) * math.log(1 - p))
    return {
        "accuracy": a,
        "ece": abs(a - p),
        "nll": nll,
        "brier": 2 * (a * (1 - p) ** 2 + (1 - a) * p**2),
        "ece_15": abs(a - p),
        "mce": abs(a - p),
        "ece_adaptive": abs(a - p),
        "ece_classwise": a * (1 - p) + (1 - a) * p,  # answer 0 is right always, at p and at 1 - p
        "aurc": 1 - a,
        "entropy": -(p * math.log(p) + (1 - p) * math.log(1 - p)),
        "excess_nll": nll + math.log(0.95),
    }


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_golden_files_hold_the_known_answers() -> None:
    """So that they cannot be wrong and stay the same."""
    checked = 0
    for file in ("results.csv", "metrics.csv"):
        for row in rows(GOLDEN / file):
            if row["task"] != row["eval_task"] or row["metric"] == "ece_debiased":
                continue
            p, hits = RUNS[row["method"]]
            values = [closed_form(p, right)[row["metric"]] for right in hits[row["task"]]]
            mean, sd = np.mean(values), np.std(values, ddof=1)
            numbers = [float(row[name]) for name in ("mean", "sd", "sem")]
            assert numbers == pytest.approx([mean, sd, sd / 2**0.5], abs=2e-6), row
            checked += 1
    assert checked == 8 * 5 + 8 * 7
    table = {(r["metric"], r["method"], r["task"]): r for r in rows(GOLDEN / "table1.csv")}
    assert table["accuracy", "ivon", "one"]["change"] == "0.075000"  # 16.5 / 20 less 15 / 20
    assert table["accuracy", "ivon", "average"]["mean"] == "0.800000"  # of 0.825 and 0.775
    assert [m for m in RUNS if table["accuracy", m, "average"]["best"]] == ["ivon"]
    costs = {(r["task"], r["method"], r["cost"]): r for r in rows(GOLDEN / "costs.csv")}
    assert costs["one", "la_kfac", "train_s"]["mean"] == "15.000000"  # its base's: 10 and 20
    assert costs["one", "la_kfac", "fit_passes"]["relative"] == "1.640000"  # (400 + 256) / 400
    assert costs["one", "ivon", "train_s"]["relative"] == "1.200000"
    assert costs["one", "ivon", "predict_passes"]["relative"] == "3.000000"
    differences = {(r["task"], r["method"], r["metric"]): r for r in rows(GOLDEN / "differences.csv")}
    assert differences["one", "ivon", "accuracy"]["difference"] == "0.075000"
    away = {(r["method"], r["metric"]): r["mean"] for r in rows(GOLDEN / "ood.csv")}
    assert away["adamw", "auroc_entropy"] == away["ivon", "auroc_max_prob"] == "1.000000"  # 0.9 > 0.8 and 0.8 > 0.7
    assert away["adamw", "fpr95_entropy"] == "0.000000" and ("adamw", "auroc_mutual_information") not in away


def test_a_removed_record_is_a_gap_and_never_a_number(store, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(report, "FIGURES", {})
    fill(store)
    for seed in (1, 2):
        shutil.rmtree(store.root / "evals" / key(store.spec("ivon", "two", seed, options={"draws": 3})))
    write_report(store.root, tmp_path / "report")
    table = {(r["metric"], r["method"], r["task"]): r for r in rows(tmp_path / "report" / "tables" / "table1.csv")}
    for column in ("two", "average"):
        assert {table["accuracy", "ivon", column][name] for name in ("mean", "sem", "change", "best")} == {""}
    text = (tmp_path / "report" / "tables.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| ivon"))
    assert [cell.strip() for cell in row.split("|")][3:5] == ["-", "-"]
    assert (
        r"ivon & \textbf{82.5}$_{2.5}$ (+7.5) & -- & -- \\"
        in (tmp_path / "report" / "tables" / "table1.tex").read_text()
    )
    ranked = {r["method"] for r in rows(tmp_path / "report" / "tables" / "ranks.csv")}
    assert ranked == {"adamw", "la_kfac"} and "ivon has no run on two" in text


def test_nan_and_corrupt_records_are_named_and_left_out(store, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(report, "FIGURES", {})
    fill(store)
    nan = store.root / "evals" / key(store.spec("adamw", "one", 1))
    text = (nan / "facts.json").read_text().replace('"accuracy": 0.7', '"accuracy": NaN')
    (nan / "facts.json").write_text(text)
    corrupt = store.root / "evals" / key(store.spec("adamw", "two", 2))
    (corrupt / "spec.json").write_text("{")
    write_report(store.root, tmp_path / "report")
    said, shown = caplog.text, (tmp_path / "report" / "tables.md").read_text()
    for folder in (nan, corrupt):
        assert folder.name in said and folder.name in shown
    assert "metrics.accuracy is nan; it should be a finite number" in shown
    table = {(r["metric"], r["method"], r["task"]): r for r in rows(tmp_path / "report" / "tables" / "table1.csv")}
    one, two = (table["accuracy", "adamw", task] for task in ("one", "two"))
    assert (one["mean"], one["n_seeds"], one["sem"]) == ("0.800000", "1", "")
    assert (two["mean"], two["n_seeds"], two["sem"]) == ("0.600000", "1", "")
    assert len(load(store.root).excluded) == 2
