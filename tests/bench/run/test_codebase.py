"""Which code computed a result: it is in the record, and a checkpoint of other code is not continued."""

from __future__ import annotations

import hashlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from support import compute, plan

from bench.method import get_method
from bench.run import codebase, provenance
from bench.run.context import classes_of
from bench.store.store import Store

SOURCE = """
from bench.method import Method
__version__ = "1.2"
class Mine(Method):
    pass
"""


def module(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> type:
    """The class of a module in a folder of its own."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    found: type = importlib.import_module(name).Mine
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, name, sys.modules.get(name) or importlib.import_module(name))
    return found


def test_a_plugin_is_named_with_the_hash_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (plugin,) = codebase.plugins([module(tmp_path, "codebase_mine", monkeypatch)])
    file = tmp_path / "codebase_mine.py"
    assert (plugin.module, plugin.version) == ("codebase_mine", "1.2")
    assert plugin.sha256 == hashlib.sha256(file.read_bytes()).hexdigest() and plugin.commit is None


def test_a_plugin_in_a_checkout_has_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@x"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    cls = module(tmp_path, "codebase_tracked", monkeypatch)
    git("add", "codebase_tracked.py")
    git("commit", "-qm", "mine")
    (plugin,) = codebase.plugins([cls])
    assert (plugin.commit, plugin.dirty) == (git("rev-parse", "HEAD").strip(), False)
    codebase._plugin.cache_clear()
    monkeypatch.setattr(provenance, "_known", {})
    (tmp_path / "codebase_tracked.py").write_text(SOURCE + "# changed\n")
    assert codebase.plugins([cls])[0].dirty is True


def test_the_suites_own_classes_are_no_plugins() -> None:
    assert codebase.plugins([get_method("swag"), get_method("la_kfac"), dict]) == ()


def test_the_record_names_every_plugin_that_took_part(tmp_path: Path) -> None:
    for method, modules in (("softened", ["softened"]), ("adamw", [])):  # softened predicts with adamw's posterior
        run = plan(method)
        store = compute(run, tmp_path)
        assert [p["module"] for p in store.record(run).facts["provenance"]["plugins"]] == modules
        assert store.fit_facts(run.fit)["provenance"]["plugins"] == []
    assert "laplace-torch" in Store(tmp_path).record(plan("adamw")).facts["provenance"]["versions"]
    colours = plan("adamw", "colours")
    assert [p["module"] for p in compute(colours, tmp_path).fit_facts(colours.fit)["provenance"]["plugins"]] == [
        "colours"
    ]


def test_attempts_say_with_which_code_they_computed(tmp_path: Path) -> None:
    run = plan("adamw")
    store = compute(run, tmp_path)
    (attempt,) = store.fit_facts(run.fit)["attempts"]
    origin = store.fit_facts(run.fit)["provenance"]
    assert (attempt["commit"], attempt["dirty"]) == (origin["commit"], origin["dirty"])


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("bench/train/loop.py", True),
        ("bench/method.py", True),
        ("methods/adamw.py", True),
        ("tasks/arc.py", True),
        ("bench/cli/listing.py", False),
        ("bench/launch/logs.py", False),
        ("README.md", False),
    ],
)
def test_the_identity_follows_the_files_that_numbers_depend_on(
    file: str, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bench/train/loop.py", "bench/method.py", "methods/adamw.py", "tasks/arc.py", "bench/cli/listing.py",
                 "bench/launch/logs.py", "README.md"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one")
    monkeypatch.setattr(codebase, "ROOT", tmp_path)

    def identity() -> str:
        codebase._suite.cache_clear()
        return codebase.identity([])["the suite"]

    try:
        before = identity()
        (tmp_path / file).write_text("two")
        assert (identity() != before) == counts
    finally:
        codebase._suite.cache_clear()


def test_the_identity_names_plugins_and_libraries() -> None:
    found = codebase.identity(classes_of(plan("softened")))
    assert {"the suite", "softened", "torch", "transformers", "peft"} <= set(found)
    assert "softened" not in codebase.identity(classes_of(plan("adamw")))
