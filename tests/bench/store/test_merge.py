"""Merging stores: whole folders or nothing, equal ones skipped, conflicts and damage refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support import compute, plan

from bench.cli.main import main
from bench.store.facts import digest_of
from bench.store.files import sha256
from bench.store.merge import Refused, merge_stores
from bench.store.records import read_records
from bench.store.store import Store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stores of one run each; they share no result."""
    root = tmp_path_factory.mktemp("made")
    for seed in (1, 2):
        compute(plan("adamw", seed=seed), root / f"seed{seed}")
    return root


@pytest.fixture
def stores(made: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of them, to be spoilt."""
    for name in ("seed1", "seed2"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path / "seed1", tmp_path / "seed2"


def files(store: Path) -> dict[str, bytes]:
    return {str(file.relative_to(store)): file.read_bytes() for file in store.rglob("*") if file.is_file()}


def only(store: Path, kind: str) -> Path:
    (folder,) = (store / kind).glob("[0-9a-f]*")
    return folder


def rehash(folder: Path) -> None:
    """Make facts.json list the files as they are, as another computation would have."""
    facts = json.loads((folder / "facts.json").read_text())
    facts["files"] = {name: sha256(folder / name) for name in facts["files"]}
    write_facts(folder, facts)


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Write facts with their digest."""
    (folder / "facts.json").write_text(json.dumps({**facts, "digest": digest_of(facts)}))


def test_what_is_missing_is_copied_and_a_second_merge_copies_nothing(stores: tuple[Path, Path]) -> None:
    into, source = stores
    before = {**files(into), **files(source)}
    merged = merge_stores([Store(source)], Store(into))
    assert [place.parent.name for _, place in merged.copied] == ["fits", "evals"] and merged.known == 0
    assert files(into) == before  # the two have no file in common
    records, damaged = read_records(into)
    assert [record.spec.fit.seed for record in sorted(records, key=lambda r: r.spec.fit.seed)] == [1, 2]
    assert damaged == [] and Store(into).posterior(plan("adamw", seed=2).fit).mean
    again = merge_stores([Store(source), Store(source)], Store(into))
    assert again.copied == () and again.known == 4


def test_seconds_may_differ_and_what_is_there_stands(stores: tuple[Path, Path]) -> None:
    into, source = stores
    shutil.rmtree(source)
    shutil.copytree(into, source)
    fit = only(source, "fits")
    (fit / "trace.jsonl").write_text('{"step": 1, "seconds": 9}\n')
    rehash(fit)
    before = files(into)
    assert merge_stores([Store(source)], Store(into)).known == 2
    assert files(into) == before


@pytest.mark.parametrize("file", ["posterior.safetensors", "predictions.safetensors"])
def test_a_conflict_is_refused_with_both_paths(stores: tuple[Path, Path], tmp_path: Path, file: str, capsys) -> None:
    into, source = stores
    other = tmp_path / "other"
    shutil.copytree(into, other)
    folder = only(other, "fits" if file.startswith("post") else "evals")
    arrays = load_file(folder / file)
    if "log_probs" in arrays:
        arrays["log_probs"] = np.nextafter(arrays["log_probs"], np.float32(-9))  # metrics stay equal to 1e-9: no damage
        facts = json.loads((folder / "facts.json").read_text())
        from bench.metrics import nll, score

        facts["metrics"].update(score(arrays["log_probs"], arrays["labels"]))
        facts["metrics"]["excess_nll"] = facts["metrics"]["nll"] - nll(arrays["truth"], arrays["labels"])
        write_facts(folder, facts)
    else:
        name = min(arrays)
        arrays[name] = arrays[name] + 1
    save_file(arrays, folder / file)
    rehash(folder)
    before = files(into)
    assert main(["merge", str(source), str(other), "--runs", str(into)]) == 1
    said = capsys.readouterr().err
    assert str(folder) in said and str(into / folder.parent.name / folder.name) in said and file in said
    assert "Nothing was copied" in said
    assert files(into) == before  # the first source had no conflict, and was not copied either


@pytest.mark.parametrize("flaw", ["byte", "extra", "link", "spec", "facts", "metric", "gone", "name"])
def test_damage_is_refused_by_name(stores: tuple[Path, Path], flaw: str) -> None:
    into, source = stores
    folder = only(source, "evals")
    facts = json.loads((folder / "facts.json").read_text())
    file = folder / "predictions.safetensors"
    if flaw == "byte":
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    elif flaw == "extra":
        (folder / "notes.txt").write_text("hello")
    elif flaw == "link":
        file.rename(folder.parent.parent / "elsewhere")
        file.symlink_to(folder.parent.parent / "elsewhere")
    elif flaw == "spec":
        (folder / "spec.json").write_text((folder / "spec.json").read_text().replace('"adamw"', '"better"'))
        rehash(folder)
    elif flaw == "facts":
        (folder / "facts.json").write_text("{")
    elif flaw == "metric":
        facts["metrics"]["accuracy"] = 1.0
        write_facts(folder, facts)
    elif flaw == "gone":
        file.unlink()
    else:
        folder = folder.rename(folder.with_name("0123456789abcdef"))
    before = files(into)
    with pytest.raises(Refused, match=folder.name):
        merge_stores([Store(source)], Store(into))
    assert files(into) == before


def test_a_dry_run_copies_nothing(stores: tuple[Path, Path], capsys) -> None:
    into, source = stores
    before = files(into)
    assert main(["merge", str(source), "--runs", str(into), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "1 fits and 1 evaluations would be copied; 0 were there already" in said
    assert f"{only(source, 'fits')} -> " in said and "adamw on notes_two, seed 2" in said
    assert files(into) == before


def test_a_leaderboard_takes_in_another_store(stores: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    into, source = stores
    out = tmp_path / "l.csv"
    assert main(["leaderboard", "--runs", str(into), "--add", str(source), "--out", str(out)]) == 0
    assert ",2,1 2," in out.read_text()
    only(source, "evals").rename(source / "evals" / "feedfeedfeedfeed")
    before = out.read_bytes()
    assert main(["leaderboard", "--runs", str(into), "--add", str(source), "--out", str(out)]) == 1
    assert out.read_bytes() == before and "feedfeedfeedfeed" in capsys.readouterr().err


def test_senseless_merges_are_mistakes(stores: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    into, _ = stores
    assert main(["merge", str(into), "--runs", str(into)]) == 2 and "name another one" in capsys.readouterr().err
    assert main(["merge", str(tmp_path / "no"), "--runs", str(into)]) == 2 and "holds no" in capsys.readouterr().err
