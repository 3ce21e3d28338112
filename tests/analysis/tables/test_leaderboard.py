"""leaderboard.csv: exact bytes, hand-computed spreads, and what must not be in it."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from analysis.tables import leaderboard
from analysis.tables.leaderboard import write_leaderboard
from bench.cli.main import main
from bench.specs import DataSpec, FitSpec, ModelSpec, RunSpec, key

ORIGIN = "0.1.0,cccccccccccc,Abacus (1 thread),2026-01-01"
GOLDEN = """\
method,task,eval_task,split,model,protocol,variant,settings,metric,mean,sd,sem,n_seeds,seeds,keys,\
model_revision,data_revision,flags,suite,commit,device,date
adamw,notes,notes,test,embedded,clean,tuned,{adamw},accuracy,0.700000,0.100000,0.057735,3,1 2 3,{a},,r,,{from}
ivon,notes,notes,test,embedded,clean,tuned,{ivon},accuracy,0.750000,,,1,1,{i},,r,partial,{from}
adamw,notes,notes,test,embedded,clean,tuned,{adamw},nll,0.500000,0.400000,0.230940,3,1 2 3,{a},,r,,{from}
ivon,notes,notes,test,embedded,clean,tuned,{ivon},nll,0.250000,,,1,1,{i},,r,partial,{from}
adamw,notes,notes,test,embedded,clean,tuned,{adamw},excess_nll,0.000000,0.000000,0.000000,3,1 2 3,{a},,r,,{from}
adamw,notes,notes,test,embedded,clean,tuned,{adamw},aurc,0.200000,0.000000,0.000000,3,1 2 3,{a},,r,,{from}
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
    assert write_leaderboard([store.root], out) == 6
    text = out.read_bytes().decode()
    settings = {row["method"]: row["settings"] for row in rows_of(out)}
    expected = GOLDEN.format(**settings, a=" ".join(map(key, adamw)), i=key(ivon), **{"from": ORIGIN})
    assert text == expected
    assert all(len(value) == 8 for value in settings.values())
    write_leaderboard([store.root], out)
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
    write_leaderboard([store.root], out)
    assert rows_of(out)[0]["settings"] == "92bab580"


def change(folder: Path, **provenance: object) -> None:
    facts = json.loads((folder / "facts.json").read_text())
    facts["seconds"]["train" if "train" in facts["seconds"] else "predict"] = 99.0
    facts["provenance"].update(provenance)
    (folder / "facts.json").write_text(json.dumps(facts))


def test_timings_change_nothing_and_provenance_its_columns_only(store, tmp_path):
    folder = store.add(store.spec(), {"nll": 1.0})
    files = [tmp_path / f"{number}.csv" for number in range(3)]
    write_leaderboard([store.root], files[0])
    change(folder)
    write_leaderboard([store.root], files[1])
    assert files[0].read_bytes() == files[1].read_bytes()
    change(folder, device="other", time="2030-01-01T10:00:00+00:00", dirty=True, commit="d" * 40, versions={})
    write_leaderboard([store.root], files[2])
    before, after = rows_of(files[0])[0], rows_of(files[2])[0]
    assert {name for name in before if before[name] != after[name]} == set(leaderboard.ORIGIN)
    assert [after[name] for name in leaderboard.ORIGIN] == [
        "dirty mixed-devices", "0.1.0 unknown", "cccccccccccc dddddddddddd", "Abacus (1 thread); other (1 thread)",
        "2030-01-01",
    ]  # fmt: skip


def test_the_newest_run_dates_a_row(store, tmp_path):
    for seed, day in ((1, "2026-03-01"), (2, "2026-02-01")):
        store.add(store.spec(seed=seed), {"nll": 1.0}, provenance={"time": f"{day}T23:59:59+00:00"})
    write_leaderboard([store.root], tmp_path / "l.csv")
    assert rows_of(tmp_path / "l.csv")[0]["date"] == "2026-03-01"


def test_rows_that_nothing_pins_are_flagged_whether_trained_or_scored_on(store, tmp_path):
    plain = store.spec("adamw")
    other = dataclasses.replace(plain.data, revision="r+rows:0123456789ab")
    store.add(plain, {"accuracy": 0.5})
    store.add(dataclasses.replace(plain, data=other), {"accuracy": 0.5})
    trained = dataclasses.replace(plain, fit=dataclasses.replace(plain.fit, data=other), variant="trained")
    store.add(trained, {"accuracy": 0.5})
    out = tmp_path / "leaderboard.csv"
    write_leaderboard([store.root], out)
    found = {(row["data_revision"], row["variant"]): row["flags"] for row in rows_of(out)}
    assert sorted(found.values()) == ["", "unpinned-rows", "unpinned-rows"] and found["r", "tuned"] == ""


def test_flags_speak_of_the_fits_too(store, tmp_path):
    """A clean evaluation of a posterior from a dirty tree is not clean; a fit that is not there is named."""
    spec = store.spec()
    store.add(spec, {"nll": 1.0})
    change(store.root / "fits" / key(spec.fit), dirty=True)
    out = tmp_path / "l.csv"
    write_leaderboard([store.root], out)
    assert rows_of(out)[0]["flags"] == "dirty"
    shutil.rmtree(store.root / "fits" / key(spec.fit))
    write_leaderboard([store.root], out)
    assert rows_of(out)[0]["flags"] == "fit-missing"


def test_check_names_the_first_stale_lines(store, tmp_path, capsys):
    first = store.add(store.spec(), {"accuracy": 0.5, "ece": 0.2, "nll": 1.0, "brier": 0.4})
    out = tmp_path / "l.csv"
    command = ["leaderboard", "--runs", str(store.root), "--out", str(out)]
    assert main([*command, "--check"]) == 1 and f"{out} is not there" in capsys.readouterr().out
    assert not out.exists()
    assert main(command) == 0 and main([*command, "--check"]) == 0
    before = out.read_bytes()
    shutil.rmtree(first)
    store.add(store.spec(), {"accuracy": 0.5, "ece": 0.2, "nll": 2.0, "brier": 0.4})
    capsys.readouterr()
    assert main([*command, "--check"]) == 1
    said = capsys.readouterr()
    assert f"line 4 of {out}:" in said.out and "nll,1.0" in said.out and "nll,2.0" in said.out
    assert "line 3" not in said.out and "is stale. Write it again: bench leaderboard --runs" in said.err
    assert out.read_bytes() == before  # a check writes nothing
    out.write_bytes(before.replace(b"\n", b"\r\n"))
    assert main([*command, "--check"]) == 1
    assert "and 2 more lines." in capsys.readouterr().out


def test_only_results_are_ranked(store, tmp_path):
    store.add(store.spec(), {"nll": 1.0})
    store.add(store.spec(options={"tau": 0.5}, purpose="sweep"), {"nll": 2.0})
    store.add(store.spec(options={"tau": 0.2}, purpose="tune"), {"nll": 3.0})
    out = tmp_path / "l.csv"
    assert write_leaderboard([store.root], out) == 1
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
    assert write_leaderboard([store.root], out) == len(unlike)
    rows = rows_of(out)
    assert all(row["n_seeds"] == "1" for row in rows)
    assert [(row["protocol"], row["model"]) for row in rows] == sorted((row["protocol"], row["model"]) for row in rows)
    assert "embedded int8" in {row["model"] for row in rows}


@pytest.mark.parametrize("flaw", ["corrupt", "edited", "nan", "missing fact", "text metric"])
def test_damaged_records_are_named_and_left_out(store, tmp_path, caplog, flaw):
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
    write_leaderboard([store.root], out)
    (row,) = rows_of(out)
    assert (row["mean"], row["sd"], row["sem"], row["n_seeds"], row["seeds"]) == ("1.000000", "", "", "1", "1")
    assert bad.name in caplog.text


def test_a_folder_without_results_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"bench grid .*--runs"):
        write_leaderboard([tmp_path / "none"], tmp_path / "l.csv")
    assert not (tmp_path / "l.csv").exists()


def test_other_stores_are_listed_first_and_stay_as_they_are(store, tmp_path, capsys):
    store.add(store.spec("adamw", "notes"), {"nll": 1.0})
    shutil.copytree(store.root, tmp_path / "other")
    store.add(store.spec("ivon", "notes"), {"nll": 0.5})
    for file in (tmp_path / "other").rglob("posterior.safetensors"):
        file.unlink()  # a store that was published without its posteriors
    shutil.rmtree(store.root / "evals" / key(store.spec("adamw", "notes")))
    out, other = tmp_path / "l.csv", str(tmp_path / "other")
    asked = ["leaderboard", "--runs", str(store.root), "--out", str(out), "--also", other]
    assert main(asked) == 0
    rows = list(csv.DictReader(out.open()))
    assert [row["method"] for row in rows] == ["adamw", "ivon"]
    assert main([*asked, "--check"]) == 0
    assert main(["leaderboard", "--runs", str(store.root), "--out", str(out), "--check"]) == 1
    store.add(store.spec("adamw", "notes"), {"nll": 1.0})
    capsys.readouterr()
    assert main(asked) == 2
    assert f"both hold {key(store.spec('adamw', 'notes'))}: merge them with --add" in capsys.readouterr().err
    before = out.read_bytes()
    assert main(["leaderboard", "--runs", str(store.root), "--out", str(out), "--also", f"{store.root}/."]) == 2
    assert "is named twice" in capsys.readouterr().err and out.read_bytes() == before


def test_a_check_needs_no_right_to_write(store, tmp_path, monkeypatch):
    store.add(store.spec("adamw", "notes"), {"nll": 1.0})
    asked = ["leaderboard", "--runs", str(store.root), "--out", str(tmp_path / "l.csv")]
    assert main(asked) == 0
    monkeypatch.setattr("os.access", lambda path, mode, **_: not mode & os.W_OK)
    assert main([*asked, "--check"]) == 0
    assert main(asked) == 2


def test_stores_that_hold_seeds_of_one_row_or_other_rows_are_not_listed_together(store, store_at, tmp_path, capsys):
    other = store_at(tmp_path / "other")
    asked = ["leaderboard", "--runs", str(store.root), "--also", str(other.root), "--out", str(tmp_path / "l.csv")]
    store.add(store.spec("adamw", seed=1), {"nll": 1.0})
    other.add(other.spec("adamw", seed=2), {"nll": 2.0})
    assert main(asked) == 2
    assert "both hold seeds of adamw on notes, which are one row: merge them with --add" in capsys.readouterr().err
    shutil.rmtree(other.root)
    other.add(other.spec("ivon", seed=2), {"nll": 2.0}, rows="changed")
    assert main(asked) == 2
    assert "read notes (test) with unlike content" in capsys.readouterr().err and not (tmp_path / "l.csv").exists()
    shutil.rmtree(other.root)
    other.add(other.spec("ivon", seed=2), {"nll": 2.0})
    assert main(asked) == 0
    early, changed = store_at(tmp_path / "early"), store_at(tmp_path / "changed")
    early.add(early.spec("swa"), {"nll": 1.0}, no_fingerprint=True)
    changed.add(changed.spec("swag"), {"nll": 1.0}, rows="changed")
    first = ["leaderboard", "--also", str(early.root), *asked[1:]]
    assert main(first) == 0
    assert main([*first, "--also", str(changed.root)]) == 2
    assert "read notes (test) with unlike content" in capsys.readouterr().err
    shutil.rmtree(other.root)
    other.add(other.spec("ivon", seed=2), {"nll": 2.0}, rows="changed")
    other.add(other.spec("swa", seed=2), {"nll": 2.0})  # a store of two contents, before or after one of them
    for stores in ((store.root, other.root), (other.root, store.root)):
        asked = ["leaderboard", "--runs", str(stores[0]), "--also", str(stores[1]), "--out", str(tmp_path / "l.csv")]
        assert main(asked) == 2
