"""Settings: assignments, layers, checks with near misses, and what holds for one task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.method import get_method, method_names
from bench.plan.settings import (
    check_settings,
    describe,
    lora_for,
    merge,
    method_for,
    parse_assignment,
    read_toml,
    train_for,
)
from bench.specs import LoraSpec, TrainSpec


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("steps=200", {"steps": 200}),
        (" steps = 200 ", {"steps": 200}),
        ("ivon.ess=1e6", {"ivon": {"ess": 1e6}}),
        ("ivon.ess=1_000_000", {"ivon": {"ess": 1000000}}),
        ("ivon.rescale_lr=true", {"ivon": {"rescale_lr": True}}),
        ("ivon.per_task.wg_s.ess=1e7", {"ivon": {"per_task": {"wg_s": {"ess": 1e7}}}}),
        ("per_task.boolq.steps=5", {"per_task": {"boolq": {"steps": 5}}}),
        ('lora.targets=["q_proj", "k_proj"]', {"lora": {"targets": ["q_proj", "k_proj"]}}),
        ("lora.targets=q_proj", {"lora": {"targets": "q_proj"}}),
        ("x.label='a=b'", {"x": {"label": "a=b"}}),
        ("x.label=a=b", {"x": {"label": "a=b"}}),
        ("steps=", {"steps": ""}),
        ("ivon . ess = 3", {"ivon": {"ess": 3}}),
    ],
)
def test_an_assignment_becomes_nested_settings(text: str, settings: dict[str, Any]) -> None:
    found = parse_assignment(text)
    assert found == settings
    assert repr(found) == repr(settings)  # 1 is not 1.0 is not True


@pytest.mark.parametrize("text", ["steps", "", "=3", "  =3"])
def test_what_is_no_assignment_is_told_how_to_write_it(text: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_assignment(text)
    assert str(error.value) == f"--set {text!r}: write it as name=value, such as steps=200 or ivon.ess=1e6."


def test_later_layers_win_table_by_table() -> None:
    low = {"steps": 1, "ivon": {"lr": 1, "per_task": {"wg_s": {"ess": 1, "h0": 1}}}}
    high = {"ivon": {"lr": 2, "per_task": {"wg_s": {"ess": 2}, "obqa": {"ess": 3}}}, "lora": {"r": 2}}
    assert merge(low, high) == {
        "steps": 1,
        "ivon": {"lr": 2, "per_task": {"wg_s": {"ess": 2, "h0": 1}, "obqa": {"ess": 3}}},
        "lora": {"r": 2},
    }
    assert merge(high, low)["ivon"]["lr"] == 1


def test_a_list_is_replaced_and_not_extended() -> None:
    assert merge({"lora": {"targets": ["a", "b"]}}, {"lora": {"targets": ["c"]}}) == {"lora": {"targets": ["c"]}}


def test_a_table_and_a_value_replace_each_other() -> None:
    assert merge({"a": 1}, {"a": {"b": 2}}) == {"a": {"b": 2}}
    assert merge({"a": {"b": 2}}, {"a": 1}) == {"a": 1}


def test_merging_shares_nothing_with_its_layers() -> None:
    low: dict[str, Any] = {"ivon": {"per_task": {"wg_s": {"ess": 1}}}, "lora": {"targets": ["a"]}}
    merged = merge(low, {"ivon": {"lr": 1}})
    merged["ivon"]["per_task"]["wg_s"]["ess"] = 9
    merged["lora"]["targets"].append("b")
    assert low == {"ivon": {"per_task": {"wg_s": {"ess": 1}}}, "lora": {"targets": ["a"]}}


def test_merging_nothing_is_empty() -> None:
    assert merge() == merge({}, {}) == {}


# --- checks -----------------------------------------------------------------------------------------------------------


def test_known_settings_pass() -> None:
    check_settings({
        "steps": "2e2",
        "clip_norm": 0,
        "lora": {"r": 4, "targets": "q_proj,v_proj"},
        "adamw": {"lr": 1e-4},
        "ivon": {"ess": "1e6", "per_task": {"wg_s": {"ess": 1e7, "h0": 3e-4}}},
        "per_task": {"boolq": {"steps": 5}},
        "ivon_mean": {},
    })  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "start", "meant"),
    [
        ({"stepz": 1}, "There is no setting 'stepz'.", "steps"),
        ({"batchsize": 1}, "There is no setting 'batchsize'.", "batch_size"),
        ({"lroa": {}}, "There is no setting 'lroa'.", "lora"),
        ({"ivno": {"ess": 1}}, "There is no setting 'ivno'.", "ivon"),
        ({"lora": {"dropuot": 0.1}}, "There is no setting 'lora.dropuot'.", "dropout"),
        ({"ivon": {"es": 1}}, "'ivon' has no hyperparameter 'es'.", "ess"),
        ({"ivon": {"per_task": {"wgs": {"ess": 1}}}}, "ivon.per_task names 'wgs', which is no task.", "wg_s"),
        ({"ivon": {"per_task": {"wg_s": {"es": 1}}}}, "'ivon' has no hyperparameter 'es'.", "ess"),
        ({"per_task": {"bolq": {"steps": 1}}}, "per_task names 'bolq', which is no task.", "boolq"),
        ({"per_task": {"boolq": {"step": 1}}}, "There is no setting 'per_task.boolq.step'.", "steps"),
    ],
)
def test_a_misspelt_setting_gets_the_near_miss(settings: dict[str, Any], start: str, meant: str) -> None:
    with pytest.raises(LookupError) as error:
        check_settings(settings)
    said = str(error.value)
    assert said.startswith(start)
    assert " Did you mean " in said
    assert f"'{meant}'" in said


def test_a_misspelt_per_task_gets_the_near_miss() -> None:
    with pytest.raises(LookupError, match="'per_task'"):
        check_settings({"per_tasks": {"boolq": {"steps": 1}}})


def test_a_method_without_hyperparameters_says_so() -> None:
    with pytest.raises(LookupError, match=r"'ivon_mean' has no hyperparameter 'draws'\. It has none\."):
        check_settings({"ivon_mean": {"draws": 3}})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"steps": "many"}, "steps is 'many': give a int."),
        ({"steps": 1.5}, "steps is 1.5: give a int."),
        ({"steps": True}, "steps is True: give a int."),
        ({"clip_norm": float("nan")}, "clip_norm is nan: give a finite number."),
        ({"lora": 3}, "lora is 3: it is a table of settings, such as lora.x = 1."),
        ({"ivon": 3}, "ivon is 3: it is a table of settings, such as ivon.x = 1."),
        ({"per_task": 3}, "per_task is 3: it is a table of settings, such as per_task.x = 1."),
        ({"per_task": {"boolq": 3}}, "per_task.boolq is 3: it is a table of settings, such as per_task.boolq.x = 1."),
        (
            {"ivon": {"per_task": {"boolq": 3}}},
            "ivon.per_task.boolq is 3: it is a table of settings, such as ivon.per_task.boolq.x = 1.",
        ),
        ({"ivon": {"ess": "x"}}, "ivon.ess is 'x': give a float."),
        ({"ivon": {"rescale_lr": 1}}, "ivon.rescale_lr is 1: give a bool."),
        ({"ivon": {"draws": 0}}, "ivon.draws is 0: give at least 1."),
        ({"ivon": {"tau": -1}}, "ivon.tau is -1.0: give at least 0."),
        ({"ivon": {"per_task": {"wg_s": {"tau": -1}}}}, "ivon.tau is -1.0: give at least 0."),
        ({"lora": {"r": "x"}}, "lora.r is 'x': give a int."),
        ({"per_task": {"boolq": {"steps": "x"}}}, "per_task.boolq.steps is 'x': give a int."),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        check_settings(settings)
    assert str(error.value) == sentence


# --- what holds for a task --------------------------------------------------------------------------------------------

SETTINGS = {
    "steps": 100,
    "batch_size": "8",
    "per_task": {"boolq": {"steps": 50.0}},
    "lora": {"alpha": 4, "targets": ["k_proj"]},
    "ivon": {"lr": 0.1, "ess": 5, "per_task": {"wg_s": {"ess": "1e7"}, "obqa": {"tau": 0}}},
}


def test_a_method_has_its_per_task_values_on_that_task_only() -> None:
    found = {task: method_for(SETTINGS, "ivon", task).options("fit") for task in ("wg_s", "wg_m", "obqa")}
    assert (found["wg_s"]["ess"], found["wg_m"]["ess"], found["obqa"]["ess"]) == (1e7, 5.0, 5.0)
    assert {options["lr"] for options in found.values()} == {0.1}
    assert method_for(SETTINGS, "ivon", "obqa").options("predict")["tau"] == 0.0
    assert method_for(SETTINGS, "ivon", "wg_s").options("predict")["tau"] == 1.0


def test_looking_up_a_method_leaves_the_settings_alone() -> None:
    before = repr(SETTINGS)
    method_for(SETTINGS, "ivon", "wg_s")
    train_for(SETTINGS, "boolq")
    assert repr(SETTINGS) == before


def test_a_method_without_settings_has_its_defaults() -> None:
    assert method_for(SETTINGS, "adamw", "wg_s") == get_method("adamw")()


def test_training_settings_hold_for_all_tasks_but_the_named() -> None:
    assert train_for(SETTINGS, "wg_s") == TrainSpec(steps=100, batch_size=8)
    boolq = train_for(SETTINGS, "boolq")
    assert boolq == TrainSpec(steps=50, batch_size=8)
    assert type(boolq.steps) is int


def test_training_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="micro_batches is 9: give a number from 1 to batch_size"):
        train_for({"micro_batches": 9}, "wg_s")


def test_adapter_settings_are_cast() -> None:
    lora = lora_for(SETTINGS)
    assert lora == LoraSpec(r=8, alpha=4.0, dropout=0.1, targets=("k_proj",))
    assert type(lora.alpha) is float
    assert lora_for({}) == LoraSpec()


def test_the_defaults_are_the_papers() -> None:
    """PROTOCOL section 1."""
    assert TrainSpec() == TrainSpec(steps=10_000, batch_size=4, micro_batches=1, max_length=320, clip_norm=0.0)
    assert LoraSpec() == LoraSpec(r=8, alpha=16.0, dropout=0.1, targets=("q_proj", "v_proj"))


@pytest.mark.parametrize("name", method_names())
def test_every_hyperparameter_is_described(name: str) -> None:
    cls = get_method(name)
    rows = describe(cls)
    assert [row["name"] for row in rows] == list(cls.hyperparameters())
    for row in rows:
        assert set(row) == {"name", "default", "reader", "doc"}
        assert row["reader"] in ("fit", "predict")
        assert row["doc"].strip()
        check_settings({name: {row["name"]: row["default"]}})  # a default as shown can be set


def test_a_toml_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("a = 1\n[b]\nc = [1.5]\n")
    assert read_toml(file) == {"a": 1, "b": {"c": [1.5]}}


def test_a_missing_toml_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        read_toml(tmp_path / "x.toml")
    assert str(error.value) == f"There is no file {tmp_path}/x.toml."


@pytest.mark.parametrize("content", [b"a = ", b"a = 1\na = 2\n", b"\xff\xfe", b"[a\n"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_toml(file)
    assert str(error.value).startswith(f"{file} cannot be read as TOML: ")


def test_a_folder_is_no_toml_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read as TOML"):
        read_toml(tmp_path)
