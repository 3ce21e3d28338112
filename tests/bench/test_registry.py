"""The registry: names, near misses, duplicates, plug-ins, and packages that are not ours."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE

from bench.errors import BrokenPlugin, near_miss
from bench.method import METHODS, Method, get_method, method_names, register_earlier_method, register_method
from bench.registry import load_plugin
from bench.task import TASKS, Task, get_task, register_task, task_names


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers, imports or puts on the path is gone after it."""
    method_names(), task_names()
    for registry in (METHODS, TASKS):
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if name.startswith("plug_"):
            del sys.modules[name]


def method_class(name: Any) -> type[Method]:
    return type("Probe", (Method,), {"name": name, "title": "Probe", "__module__": __name__})


def task_class(name: Any) -> type[Task]:
    contents = {"name": name, "title": "Probe", "answers": ("A", "B"), "rows": {"train": 1}, "__module__": __name__}
    contents |= {"source": "generated", "revision": "1", "licence": "CC0"}
    return type("Probe", (Task,), contents)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [("ivno", "ivon"), ("adam", "adamw"), ("ivon_men", "ivon_mean"), ("bayesoptimal", "bayes_optimal")],
)
def test_a_misspelt_method_gets_the_near_miss(name: str, meant: str) -> None:
    with pytest.raises(LookupError, match=rf"^\"?There is no method '{name}'\. Did you mean .*'{meant}'.*\?"):
        get_method(name)


@pytest.mark.parametrize(("name", "meant"), [("arce", "arc_e"), ("bolq", "boolq"), ("obqua", "obqa"), ("wgs", "wg_s")])
def test_a_misspelt_task_gets_the_near_miss(name: str, meant: str) -> None:
    with pytest.raises(LookupError, match=rf"^\"?There is no task '{name}'\. Did you mean .*'{meant}'.*\?"):
        get_task(name)


def test_a_name_that_is_near_nothing_gets_the_list() -> None:
    with pytest.raises(LookupError) as error:
        get_task("qqqqqqqq")
    assert str(error.value) == f"There is no task 'qqqqqqqq'. Known: {', '.join(task_names())}."


def test_near_misses_are_the_closest_first_and_three_at_most() -> None:
    assert near_miss("abcd", ["abce", "abcd1", "xyz"]) == " Did you mean 'abcd1' or 'abce'?"
    assert near_miss("aaaa", ["aaa1", "aaa2", "aaa3", "aaa4"]).count("'") == 6
    assert near_miss("zzz", ["b", "a"]) == " Known: a, b."


def test_names_are_sorted_and_lead_to_their_classes() -> None:
    assert method_names() == sorted(method_names())
    assert task_names() == sorted(task_names())
    assert all(get_method(name).name == name for name in method_names())
    assert all(get_task(name).name == name for name in task_names())


def test_a_registered_class_is_found_and_returned_unchanged() -> None:
    cls = method_class("probe")
    assert register_method(cls) is cls
    assert get_method("probe") is cls
    assert "probe" in method_names()


def test_a_registered_task_is_found_as_an_instance() -> None:
    cls = task_class("probe")
    assert register_task(cls) is cls
    assert type(get_task("probe")) is cls


def test_a_method_and_a_task_may_share_a_name() -> None:
    register_method(method_class("probe"))
    register_task(task_class("probe"))
    assert get_method("probe").name == get_task("probe").name == "probe"


def test_a_second_method_of_a_name_names_both_owners() -> None:
    with pytest.raises(BrokenPlugin) as error:
        register_method(method_class("ivon"))
    said = str(error.value)
    assert said == f"Two methods are named 'ivon': methods.ivon.ivon.Ivon and {__name__}.Probe. Rename one of them."
    assert get_method("ivon").__module__ == "methods.ivon.ivon"  # the first stands


def test_a_name_that_the_suite_derives_is_taken() -> None:
    with pytest.raises(BrokenPlugin, match=r"Two methods are named 'ivon_ts': .*Probe and one that the suite derives"):
        register_method(method_class("ivon_ts"))
    register_method(method_class("probe_ts"))
    with pytest.raises(BrokenPlugin, match=r"Two methods are named 'probe_ts': .*Probe and one that the suite derives"):
        register_method(method_class("probe"))
    assert get_method("ivon_ts").title == "IVON + T"


def test_a_second_task_of_a_name_names_both_owners() -> None:
    with pytest.raises(BrokenPlugin) as error:
        register_task(task_class("boolq"))
    said = str(error.value)
    assert said == f"Two tasks are named 'boolq': tasks.boolq.BoolQ and {__name__}.Probe. Rename one of them."


@pytest.mark.parametrize("name", ["", "Ivon", "2fast", "_x", "a-b", "a.b", "a b", "é", "x\n", "a" * 65, None, 3])
@pytest.mark.parametrize(("register", "make"), [(register_method, method_class), (register_task, task_class)])
def test_a_bad_name_is_refused_with_its_owner(register: Any, make: Any, name: Any) -> None:
    with pytest.raises(BrokenPlugin) as error:
        register(make(name))
    assert str(error.value) == (
        f"{__name__}.Probe: set `name` to lower-case letters, digits and underscores; it is {name!r}."
    )


def test_the_longest_name_is_of_64_characters() -> None:
    register_method(method_class("a" * 64))
    assert "a" * 64 in method_names()


@pytest.mark.parametrize("register_and_make", [(register_method, method_class), (register_task, task_class)])
@pytest.mark.parametrize("name", ["lora", "per_task", "set", "include"])
def test_a_word_of_the_settings_files_is_no_name(register_and_make: Any, name: str) -> None:
    register, make = register_and_make
    with pytest.raises(BrokenPlugin, match=f"the name '{name}' is taken by a setting of the suite; choose another"):
        register(make(name))


@pytest.mark.parametrize("name", ["steps", "batch_size", "micro_batches", "max_length", "clip_norm"])
def test_a_training_setting_is_no_method_name(name: str) -> None:
    with pytest.raises(BrokenPlugin, match=f"the name '{name}' is taken by a setting"):
        register_method(method_class(name))


@pytest.mark.parametrize(
    "answers", [None, "AB", {"A", "B"}, (), ("A",), ("A", ""), ("A", " "), ("A", "B", "A"), (0, 1), {"A": 0, "B": 1}]
)
def test_answers_that_are_no_list_of_different_words_are_refused(answers: Any) -> None:
    cls = task_class("probe")
    setattr(cls, "answers", answers)  # noqa: B010  (a value of another type than the attribute's)
    with pytest.raises(BrokenPlugin) as error:
        register_task(cls)
    assert str(error.value) == (
        f"{__name__}.Probe: set `answers` to a tuple of two or more different words; it is {answers!r}."
    )
    assert "probe" not in task_names()


def test_a_list_of_answers_becomes_a_tuple() -> None:
    cls = task_class("probe")
    setattr(cls, "answers", ["yes", "no"])  # noqa: B010  (a value of another type than the attribute's)
    register_task(cls)
    assert get_task("probe").answers == ("yes", "no")


# --- plug-ins ---------------------------------------------------------------------------------------------------------


def test_a_plug_in_beside_the_grid_is_found_and_registers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plug_beside.py").write_text(
        "from bench.method import Method\n"
        "from bench.method import register_method\n"
        "@register_method\n"
        "class Mine(Method):\n"
        "    name, title, base = 'mine', 'Mine', 'adamw'\n"
    )
    monkeypatch.chdir(tmp_path)
    load_plugin("plug_beside")
    assert get_method("mine").__module__ == "plug_beside"


def test_a_plug_in_in_a_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plug_pkg").mkdir()
    (tmp_path / "plug_pkg" / "inner.py").write_text("LOADED = True\n")
    monkeypatch.chdir(tmp_path)
    load_plugin("plug_pkg.inner")
    assert sys.modules["plug_pkg.inner"].LOADED


def test_loading_a_plug_in_twice_is_no_duplicate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plug_twice.py").write_text(
        "from bench.task import register_task\n"
        "from bench.task import Task\n"
        "@register_task\n"
        "class Mine(Task):\n"
        "    name, title, answers, rows = 'plug_twice_task', 'Twice', ('A', 'B'), {'train': 1}\n"
        "    source, revision, licence = 'generated', '1', 'CC0'\n"
    )
    monkeypatch.chdir(tmp_path)
    load_plugin("plug_twice")
    load_plugin("plug_twice")
    assert "plug_twice_task" in task_names()


@pytest.mark.parametrize("name", ["plug_nowhere", "plug_nowhere.inner", "bench.plug_nowhere"])
def test_a_plug_in_that_is_not_there_is_a_sentence(name: str) -> None:
    with pytest.raises(LookupError, match=rf"^--plugin {name}: no such module\. Run from the folder that holds it"):
        load_plugin(name)


@pytest.mark.parametrize("name", ["my-plugin", "dir/plug", "", ".plug", "plug.", "a..b", "1plug", "plug;x", "plug\n"])
def test_what_is_no_module_name_is_told_how_to_write_it(name: str) -> None:
    with pytest.raises(LookupError, match=r"is not a module name: write it as my_pkg\.my_module, without \.py"):
        load_plugin(name)


def test_a_plug_in_given_as_a_file_is_told_to_leave_out_the_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plug_file.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LookupError, match=r"without \.py"):
        load_plugin("plug_file.py")


def test_a_plug_in_that_lacks_a_dependency_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plug_needs.py").write_text("import plug_not_installed\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        BrokenPlugin, match=r"^--plugin plug_needs cannot .*'plug_not_installed', plug_needs\.py line 1"
    ):
        load_plugin("plug_needs")


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("raise RuntimeError('no\\nluck')", "RuntimeError: no luck"),
        ("{}['x']", "KeyError: 'x'"),
        ("class E(BaseException): pass\nraise E", "E"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
    ],
)
def test_whatever_a_plug_in_raises_becomes_one_sentence(
    line: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plug_raises.py").write_text(line + "\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        BrokenPlugin, match=rf"^--plugin plug_raises cannot be imported \({kind}.*\): fix it.*\.$"
    ) as error:
        load_plugin("plug_raises")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("register", [register_method, register_task])
@pytest.mark.parametrize("junk", [int, 3, lambda: None, Path])
def test_what_is_not_of_the_kind_is_refused(register: Any, junk: Any) -> None:
    if isinstance(junk, type):
        junk = type("Junk", (junk,), {"name": "junk"})
    with pytest.raises(BrokenPlugin, match=r"is not a (Method|Task): derive it|it decorates a class"):
        register(junk)


@pytest.mark.parametrize(
    ("name", "value"),
    [("title", None), ("title", "a\nb"), ("version", "1"), ("version", 0), ("version", True), ("base", 3),
     ("uses_model", "no"), ("tunes", 1)],
)  # fmt: skip
def test_metadata_of_a_method_is_checked_when_it_registers(name: str, value: Any) -> None:
    cls = method_class("probe")
    setattr(cls, name, value)
    with pytest.raises(BrokenPlugin, match=rf"Probe: set `{name}` to .*; it is {re.escape(repr(value))}\."):
        register_method(cls)


@pytest.mark.parametrize(
    ("name", "value"),
    [("title", ""), ("source", None), ("revision", 3), ("licence", " "), ("version", 1.5), ("rows", None), ("rows", {}),
     ("rows", {"train": "many"}), ("rows", {"train": 0}), ("rows", {1: 1}), ("rows", [("train", 1)])],
)  # fmt: skip
def test_metadata_of_a_task_is_checked_when_it_registers(name: str, value: Any) -> None:
    cls = task_class("probe")
    setattr(cls, name, value)
    with pytest.raises(BrokenPlugin, match=rf"Probe: set `{name}` to .*; it is {re.escape(repr(value))}\."):
        register_task(cls)


def test_a_base_that_does_not_exist_names_the_method_and_the_near_miss() -> None:
    cls = method_class("probe")
    cls.base = "adamv"
    register_method(cls)
    with pytest.raises(BrokenPlugin, match=r"Probe\.base: There is no method 'adamv'\. Did you mean 'adamw'\?"):
        get_method("probe")


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("adamv", "There is no method 'adamv'. Did you mean 'adamw'?"),
        ("probe", "settings of method 'probe' go in a circle: probe -> probe. Correct one `settings_of`."),
        (3, "set `settings_of` to the name of a method, or None; it is 3."),
    ],
)
def test_settings_come_from_a_method_that_has_its_own(named: Any, said: str) -> None:
    cls = method_class("probe")
    cls.settings_of = named
    with pytest.raises(BrokenPlugin, match=re.escape(said)):
        register_method(cls)
        get_method("probe")


def test_a_class_that_is_defined_again_replaces_the_first() -> None:
    first, again = method_class("probe"), method_class("probe")
    register_method(first), register_method(again)
    assert get_method("probe") is again


def test_a_plug_in_that_takes_a_name_is_refused_with_both_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plug_thief.py").write_text(
        "from bench.method import Method\n"
        "from bench.method import register_method\n"
        "@register_method\n"
        "class Thief(Method):\n"
        "    name, title = 'adamw', 'Mine'\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BrokenPlugin, match=r"methods\.adamw\.AdamW and plug_thief\.Thief"):
        load_plugin("plug_thief")
    assert get_method("adamw").__module__ == "methods.adamw"


# --- our own packages -------------------------------------------------------------------------------------------------


def ask(code: str, first_on_path: Path, repository: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter in which a folder comes before the suite's."""
    env = {**os.environ, "PYTHONPATH": f"{first_on_path}{os.pathsep}{repository}"}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=first_on_path, capture_output=True, text=True, timeout=PATIENCE
    )


@pytest.mark.parametrize("kind", ["method", "task"])
def test_a_foreign_package_of_our_name_is_refused(tmp_path: Path, repository: Path, kind: str) -> None:
    package = f"{kind}s"
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("print('foreign code ran')\n")
    done = ask(f"from bench.{kind} import {kind}_names; {kind}_names()", tmp_path, repository)
    assert done.returncode != 0
    assert f"ImportError: `import {package}` found {tmp_path.resolve() / package}" in done.stderr
    assert f"does not lie next to the suite ({repository})" in done.stderr


def test_a_foreign_package_is_refused_at_every_look_up(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text("")
    code = (
        "from bench.task import task_names\n"
        "for _ in range(2):\n"
        "    try:\n"
        "        task_names()\n"
        "    except ImportError as error:\n"
        "        print('refused')\n"
    )
    assert ask(code, tmp_path, repository).stdout.split() == ["refused", "refused"]


def test_nothing_is_imported_before_the_first_look_up(tmp_path: Path, repository: Path) -> None:
    code = "import sys, bench.registry; print(sorted({'torch', 'methods', 'tasks', 'numpy'} & set(sys.modules)))"
    assert ask(code, tmp_path, repository).stdout.strip() == "[]"


def test_a_package_that_failed_to_import_fails_again_with_the_same_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError(f"{name} has a fault")

    monkeypatch.setattr(METHODS, "_loaded", False)
    monkeypatch.setattr(importlib, "import_module", fail)
    for _ in range(2):
        with pytest.raises(BrokenPlugin, match=r"The package 'methods' cannot .* methods has a fault"):
            get_method("adamw")


def test_an_earlier_plug_in_keeps_a_name_that_the_suite_derives_since(caplog: pytest.LogCaptureFixture) -> None:
    mine = register_earlier_method(method_class("ivon_ts"))
    assert get_method("ivon_ts") is mine and "is that of" in caplog.text
    register_earlier_method(method_class("probe_ts"))
    register_earlier_method(method_class("probe"))  # in either order
