"""leaderboard.csv: exact bytes, hand-computed spreads, and what must not be in it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from analysis.leaderboard import write_leaderboard
from bench.specs import DataSpec, FitSpec, ModelSpec, RunSpec, key

GOLDEN = """\
method,task,eval_task,split,model,protocol,variant,settings,metric,mean,sd,sem,n_seeds,seeds,partial_data,keys
adamw,notes,notes,test,embedded,clean,tuned,{adamw},accuracy,0.700000,0.100000,0.057735,3,1 2 3,no,{adamw_keys}
ivon,notes,notes,test,embedded,clean,tuned,{ivon},accuracy,0.750000,,,1,1,yes,{ivon_keys}
adamw,notes,notes,test,embedded,clean,tuned,{adamw},nll,0.500000,0.400000,0.230940,3,1 2 3,no,{adamw_keys}
ivon,notes,notes,test,embedded,clean,tuned,{ivon},nll,0.250000,,,1,1,yes,{ivon_keys}
adamw,notes,notes,test,embedded,clean,tuned,{adamw},excess_nll,0.000000,0.000000,0.000000,3,1 2 3,no,{adamw_keys}
adamw,notes,notes,test,embedded,clean,tuned,{adamw},aurc,0.200000,0.000000,0.000000,3,1 2 3,no,{adamw_keys}
"""


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_golden(store, tmp_path):
    adamw = [store.spec("adamw", seed=seed) for seed in (1, 2, 3)]
    # accuracy .6 .7 .8: mean .7, sd sqrt(2 * .01 / 2) = .1, sem .1 / sqrt(3); nll .1 .5 .9: sd .4
    for spec, accuracy, nll in zip(adamw, (0.6, 0.7, 0.8), (0.1, 0.5, 0.9), strict=True):
        store.add(spec, {"nll": nll, "accuracy": accuracy, "excess_nll": -1e-12, "aurc": 0.2})
    ivon = store.spec("ivon", seed=1, options={"tau": 1.0})
    store.add(ivon, {"accuracy": 0.75, "nll": 0.25}, partial=True)
    out = tmp_path / "deep" / "leaderboard.csv"
    assert write_leaderboard(store.root, out) == 6
    text = out.read_bytes().decode()
    settings = {row["method"]: row["settings"] for row in rows_of(out)}
    expected = GOLDEN.format(**settings, adamw_keys=" ".join(map(key, adamw)), ivon_keys=key(ivon))
    assert text == expected
    assert all(len(value) == 8 for value in settings.values())
    write_leaderboard(store.root, out)
    assert out.read_bytes().decode() == expected
    assert [file.name for file in out.parent.iterdir()] == ["leaderboard.csv"]


def test_settings_hash_is_pinned(store, tmp_path):
    """It must not move unless specs do."""
    fit = FitSpec(
        method="m", version=1, options={}, data=DataSpec(task="t", version=1, revision="r"), holdout=0.0,
        model=ModelSpec(), train=store.spec().fit.train, seed=7,
    )  # fmt: skip
    spec = RunSpec(fit=fit, method="m", version=1, options={}, data=fit.data, split="test")
    store.add(spec, {"nll": 1.0})
    out = tmp_path / "l.csv"
    write_leaderboard(store.root, out)
    assert rows_of(out)[0]["settings"] == "92bab580"


def test_timings_and_provenance_change_nothing(store, tmp_path):
    store.add(store.spec(), {"nll": 1.0})
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    write_leaderboard(store.root, first)
    file = next(store.root.glob("evals/*/facts.json"))
    facts = json.loads(file.read_text())
    facts["seconds"]["predict"] = 99.0
    facts["provenance"].update(device="other", time="2030-01-01", dirty=True)
    file.write_text(json.dumps(facts))
    write_leaderboard(store.root, second)
    assert first.read_bytes() == second.read_bytes()


def test_only_results_are_ranked(store, tmp_path):
    store.add(store.spec(), {"nll": 1.0})
    store.add(store.spec(options={"tau": 0.5}, purpose="sweep"), {"nll": 2.0})
    store.add(store.spec(options={"tau": 0.2}, purpose="tune"), {"nll": 3.0})
    out = tmp_path / "l.csv"
    assert write_leaderboard(store.root, out) == 1
    assert rows_of(out)[0]["mean"] == "1.000000"


def test_unlike_runs_are_not_averaged(store, tmp_path):
    """Another option, variant, protocol, evaluation task or model makes another row."""
    unlike = [
        {},
        {"fit_options": {"lr": 0.1}},
        {"variant": "paper"},
        {"protocol": "paper"},
        {"eval_task": "other"},
        {"model": ModelSpec(quantization="int8")},
    ]
    for change in unlike:
        store.add(store.spec(**change), {"nll": 1.0})
    out = tmp_path / "l.csv"
    assert write_leaderboard(store.root, out) == len(unlike)
    rows = rows_of(out)
    assert all(row["n_seeds"] == "1" for row in rows)
    assert [(row["protocol"], row["model"]) for row in rows] == sorted((row["protocol"], row["model"]) for row in rows)
    assert "embedded int8" in {row["model"] for row in rows}


@pytest.mark.parametrize("flaw", ["corrupt", "edited", "nan", "missing fact", "text metric"])
def test_damaged_records_are_named_and_left_out(store, tmp_path, capsys, flaw):
    store.add(store.spec(seed=1), {"nll": 1.0})
    bad = store.add(store.spec(seed=2), {"nll": 3.0})
    facts = json.loads((bad / "facts.json").read_text())
    if flaw == "corrupt":
        (bad / "facts.json").write_text("{")
    elif flaw == "edited":
        (bad / "spec.json").write_text((bad / "spec.json").read_text().replace("adamw", "admaw"))
    elif flaw == "nan":
        (bad / "facts.json").write_text(json.dumps({**facts, "metrics": {"nll": float("nan")}}))
    elif flaw == "text metric":
        (bad / "facts.json").write_text(json.dumps({**facts, "metrics": {"nll": "3"}}))
    else:
        del facts["partial_data"]
        (bad / "facts.json").write_text(json.dumps(facts))
    out = tmp_path / "l.csv"
    write_leaderboard(store.root, out)
    (row,) = rows_of(out)
    assert (row["mean"], row["sd"], row["sem"], row["n_seeds"], row["seeds"]) == ("1.000000", "", "", "1", "1")
    assert bad.name in capsys.readouterr().err


def test_a_folder_without_results_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"bench grid .*--runs"):
        write_leaderboard(tmp_path / "none", tmp_path / "l.csv")
    assert not (tmp_path / "l.csv").exists()
