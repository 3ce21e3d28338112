"""Merging stores: whole folders or nothing, equal ones skipped, conflicts and damage refused by name."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support import compute, plan

from bench.cli.main import main
from bench.specs import RunSpec, build, key
from bench.store import merge
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
    assert "1 fit and 1 evaluation would be copied; 0 were there already" in said
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


# --- a source that anybody may have written ---------------------------------------------------------------------------


def spoil_setuid(source: Path) -> None:
    file = only(source, "evals") / "run-me"
    file.write_text("#!/bin/sh\n")
    file.chmod(0o4777)
    facts = json.loads((only(source, "evals") / "facts.json").read_text())
    facts["files"]["run-me"] = sha256(file)
    write_facts(only(source, "evals"), facts)


def spoil_fifo(source: Path) -> None:
    (only(source, "fits") / "trace.jsonl").unlink()
    os.mkfifo(only(source, "fits") / "trace.jsonl")


def spoil_folder_link(source: Path) -> None:
    folder = only(source, "evals")
    folder.rename(source / "elsewhere")
    folder.symlink_to(source / "elsewhere")


def spoil_kind_link(source: Path) -> None:
    (source / "evals").rename(source / "elsewhere")
    (source / "evals").symlink_to(source / "elsewhere")


def spoil_secret(source: Path) -> None:
    secret = source / "secret"
    secret.write_text('{"step": 0}\n')
    (only(source, "fits") / "trace.jsonl").unlink()
    (only(source, "fits") / "trace.jsonl").symlink_to(secret)


def spoil_listed_path(source: Path) -> None:
    facts = json.loads((only(source, "evals") / "facts.json").read_text())
    facts["files"]["../../../outside"] = "0" * 64
    write_facts(only(source, "evals"), facts)


def spoil_name(source: Path) -> None:
    file = only(source, "evals") / "spec.json"
    spec = json.loads(file.read_text())
    spec["variant"] = "=cmd|' /C calc'!A0"
    file.write_text(json.dumps(spec))
    rehash(only(source, "evals"))
    only(source, "evals").rename(source / "evals" / key(build(RunSpec, spec)))


def spoil_predictions(source: Path) -> None:
    arrays = load_file(only(source, "evals") / "predictions.safetensors")
    arrays["labels"][0] = 77
    save_file(arrays, only(source, "evals") / "predictions.safetensors")
    rehash(only(source, "evals"))


SPOILT = [spoil_setuid, spoil_fifo, spoil_folder_link, spoil_kind_link, spoil_secret, spoil_listed_path, spoil_name,
          spoil_predictions]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_hostile_result_is_refused_and_nothing_is_copied(
    stores: tuple[Path, Path], spoil: Callable[[Path], None]
) -> None:
    into, source = stores
    spoil(source)
    before = files(into)
    with pytest.raises(Refused) as error:
        merge_stores([Store(source)], Store(into))
    assert str(error.value).isascii() and "\x1b" not in str(error.value)
    assert files(into) == before and not (into.parent / "outside").exists()


def test_modes_of_a_source_are_not_taken_over(stores: tuple[Path, Path]) -> None:
    into, source = stores
    for file in source.rglob("*.*"):
        file.chmod(0o4755)
    merge_stores([Store(source)], Store(into))
    mask = os.umask(0o022)
    os.umask(mask)
    assert {stat.S_IMODE(file.stat().st_mode) for file in only(source, "fits").iterdir()} == {0o4755}
    for kind in ("fits", "evals"):
        copied = into / kind / only(source, kind).name
        assert {stat.S_IMODE(file.stat().st_mode) for file in copied.iterdir()} == {0o666 & ~mask}


# --- other versions ---------------------------------------------------------------------------------------------------


def edit_facts(folder: Path, change: Callable[[dict[str, Any]], None], digest: bool = True) -> None:
    facts = json.loads((folder / "facts.json").read_text())
    change(facts)
    facts.pop("digest", None)
    (folder / "facts.json").write_text(json.dumps({**facts, "digest": digest_of(facts)} if digest else facts) + "\n")


def test_a_metric_that_was_added_later_damages_no_earlier_evaluation(
    stores: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    into, source = stores
    edit_facts(only(source, "evals"), lambda facts: facts["metrics"].pop("brier"), digest=False)  # it was added later
    edit_facts(only(source, "evals"), lambda facts: facts["metrics"].update(unheard_of=3.0))  # a newer version has it
    assert len(merge_stores([Store(source)], Store(into)).copied) == 2


def test_facts_without_what_was_added_later_are_merged_unchecked(stores: tuple[Path, Path]) -> None:
    into, source = stores

    def older(facts: dict[str, Any]) -> None:
        facts["examples"].pop("fingerprint")
        facts.pop("attempt")
        facts["fit"]["examples"].pop("fingerprint")

    edit_facts(only(source, "evals"), older, digest=False)
    edit_facts(only(source, "fits"), lambda facts: facts["examples"].pop("fingerprint"), digest=False)
    assert len(merge_stores([Store(source)], Store(into)).copied) == 2


# --- rows -------------------------------------------------------------------------------------------------------------


def change_rows(facts: dict[str, Any]) -> None:
    facts["examples"]["fingerprint"] = "f" * 16


@pytest.mark.parametrize("kind", ["evals", "fits"])
@pytest.mark.parametrize("there", [True, False])
def test_different_rows_under_one_name_are_refused(
    stores: tuple[Path, Path], tmp_path: Path, kind: str, there: bool
) -> None:
    into, source = stores
    edit_facts(only(source, kind), change_rows)
    place = into if there else tmp_path / "empty"
    sources = [Store(source)] if there else [Store(into), Store(source)]
    before = files(place) if there else {}
    with pytest.raises(Refused, match=r"saw different rows of the (validation|train) split of notes_two") as error:
        merge_stores(sources, Store(place))
    assert only(source, kind).name in str(error.value) and "f" * 16 in str(error.value)
    assert not place.exists() or files(place) == before


def test_a_store_whose_folders_are_links_of_its_user_takes_results(stores: tuple[Path, Path], tmp_path: Path) -> None:
    into, source = stores
    for kind in ("fits", "evals"):
        (into / kind).rename(tmp_path / kind)
        (into / kind).symlink_to(tmp_path / kind)
    assert merge_stores([Store(source)], Store(into)).known == 0
    assert merge_stores([Store(source)], Store(into)).known == 2


def test_a_merge_that_a_full_disk_stops_says_how_far_it_came(
    stores: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    into, source = stores
    copy, copied = merge._copy, list[Path]()

    def fill(result: merge.Result, place: Path) -> None:
        if copied:
            raise OSError(errno.ENOSPC, "No space left on device", str(place))
        copied.append(place)
        copy(result, place)

    monkeypatch.setattr(merge, "_copy", fill)
    with pytest.raises(Refused, match=r"the disk is full\. 1 of 2 results were copied into .*: correct that and merge"):
        merge_stores([Store(source)], Store(into))
    monkeypatch.undo()
    assert len(merge_stores([Store(source)], Store(into)).copied) == 1
