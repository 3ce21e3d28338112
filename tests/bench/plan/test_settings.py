"""Settings: assignments, layers, checks with near misses, and what holds for one task."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bench.method import get_method, method_names
from bench.plan.grid import with_bases
from bench.plan.settings import Settings, check_used, describe, merge, parse_assignment
from bench.plan.tune import stages
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
    Settings({
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
        ({"ivon": {"per_task": {"wgs": {"ess": 1}}}}, "ivon.per_task names 'wgs', which is not a task.", "wg_s"),
        ({"ivon": {"per_task": {"wg_s": {"es": 1}}}}, "'ivon' has no hyperparameter 'es'.", "ess"),
        ({"per_task": {"bolq": {"steps": 1}}}, "per_task names 'bolq', which is not a task.", "boolq"),
        ({"per_task": {"boolq": {"step": 1}}}, "There is no setting 'per_task.boolq.step'.", "steps"),
    ],
)
def test_a_misspelt_setting_gets_the_near_miss(settings: dict[str, Any], start: str, meant: str) -> None:
    with pytest.raises(LookupError) as error:
        Settings(settings)
    said = str(error.value)
    assert said.startswith(start)
    assert " Did you mean " in said
    assert f"'{meant}'" in said


def test_a_misspelt_per_task_gets_the_near_miss() -> None:
    with pytest.raises(LookupError, match="'per_task'"):
        Settings({"per_tasks": {"boolq": {"steps": 1}}})


def test_a_method_without_hyperparameters_says_so() -> None:
    with pytest.raises(LookupError, match=r"'zero_shot' has no hyperparameter 'draws'\. It has none\."):
        Settings({"zero_shot": {"draws": 3}})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"steps": "many"}, "steps is 'many': expected a whole number."),
        ({"steps": 1.5}, "steps is 1.5: expected a whole number."),
        ({"steps": True}, "steps is True: expected a whole number."),
        ({"clip_norm": float("nan")}, "clip_norm is nan: expected a finite number."),
        ({"lora": 3}, "lora is 3: it is a table of settings, such as lora.x = 1."),
        ({"ivon": 3}, "ivon is 3: it is a table of settings, such as ivon.x = 1."),
        ({"per_task": 3}, "per_task is 3: it is a table of settings, such as per_task.x = 1."),
        ({"per_task": {"boolq": 3}}, "per_task.boolq is 3: it is a table of settings, such as per_task.boolq.x = 1."),
        (
            {"ivon": {"per_task": {"boolq": 3}}},
            "ivon.per_task.boolq is 3: it is a table of settings, such as ivon.per_task.boolq.x = 1.",
        ),
        ({"ivon": {"ess": "x"}}, "ivon.ess is 'x': expected a number."),
        ({"ivon": {"rescale_lr": 1}}, "ivon.rescale_lr is 1: expected true or false."),
        ({"ivon": {"draws": 0}}, "ivon.draws is 0: must be at least 1."),
        ({"ivon": {"tau": -1}}, "ivon.tau is -1.0: must be at least 0."),
        ({"ivon": {"per_task": {"wg_s": {"tau": -1}}}}, "ivon.tau is -1.0: must be at least 0."),
        ({"lora": {"r": "x"}}, "lora.r is 'x': expected a whole number."),
        ({"per_task": {"boolq": {"steps": "x"}}}, "per_task.boolq.steps is 'x': expected a whole number."),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        Settings(settings)
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
    found = {task: Settings(SETTINGS).method("ivon", task).options("fit") for task in ("wg_s", "wg_m", "obqa")}
    assert (found["wg_s"]["ess"], found["wg_m"]["ess"], found["obqa"]["ess"]) == (1e7, 5.0, 5.0)
    assert {options["lr"] for options in found.values()} == {0.1}
    assert Settings(SETTINGS).method("ivon", "obqa").options("predict")["tau"] == 0.0
    assert Settings(SETTINGS).method("ivon", "wg_s").options("predict")["tau"] == 1.0


def test_looking_up_a_method_leaves_the_settings_alone() -> None:
    before = repr(SETTINGS)
    Settings(SETTINGS).method("ivon", "wg_s")
    Settings(SETTINGS).train("boolq")
    assert repr(SETTINGS) == before


def test_a_method_without_settings_has_its_defaults() -> None:
    assert Settings(SETTINGS).method("adamw", "wg_s") == get_method("adamw")()


def test_training_settings_hold_for_all_tasks_but_the_named() -> None:
    assert Settings(SETTINGS).train("wg_s") == TrainSpec(steps=100, batch_size=8)
    boolq = Settings(SETTINGS).train("boolq")
    assert boolq == TrainSpec(steps=50, batch_size=8)
    assert type(boolq.steps) is int


def test_training_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="micro_batches is 9: must be from 1 to batch_size"):
        Settings({"micro_batches": 9})


def test_adapter_settings_are_cast() -> None:
    lora = Settings(SETTINGS).lora
    assert lora == LoraSpec(r=8, alpha=4.0, dropout=0.1, targets=("k_proj",))
    assert type(lora.alpha) is float
    assert Settings().lora == LoraSpec()


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
        Settings({name: {row["name"]: row["default"]}})  # a default as shown can be set


# --- layers and bounds ------------------------------------------------------------------------------------------------


def test_a_later_layer_overrides_per_task_settings_and_its_own_override_it() -> None:
    base = {
        "steps": 5,
        "ivon": {"ess": 1, "per_task": {"wg_s": {"ess": 2, "h0": 7}}},
        "per_task": {"wg_s": {"steps": 6}},
    }
    found = Settings(base).over({"ivon": {"ess": 3, "per_task": {"wg_m": {"ess": 4}}}, "steps": 8})
    ess = {task: found.method("ivon", task).options("fit")["ess"] for task in ("wg_s", "wg_m", "obqa")}
    assert ess == {"wg_s": 3.0, "wg_m": 4.0, "obqa": 3.0}
    assert found.method("ivon", "wg_s").options("fit")["h0"] == 7.0
    assert {found.train(task).steps for task in ("wg_s", "obqa")} == {8}
    assert Settings(base).train("wg_s").steps == 6


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lora": {"alpha": 1e30}}, r"lora\.alpha is 1e\+30: must be at most 1e\+06"),
        ({"lora": {"r": 10**7}}, r"lora\.r is 10000000: must be at most 65536"),
        ({"batch_size": 10**9}, "batch_size is 1000000000: must be at most 65536"),
        ({"per_task": {"wg_s": {"max_length": 10**9}}}, r"per_task\.wg_s\.max_length is 1000000000: must be at most"),
        ({"ivon": {"ess": 1e30}}, r"ivon\.ess is 1e\+30: must be"),
        ({"ivon": {"tau": 1e30}}, r"ivon\.tau is 1e\+30: must be"),
        ({"ivon": {"lr": 1e38}}, r"ivon\.lr is 1e\+38: must be"),
        ({"adamw": {"lr": 1e38}}, r"adamw\.lr is 1e\+38: must be"),
        ({"swag": {"tau": 1e30}}, r"swag\.tau is 1e\+30: must be"),
        ({"la_kfac": {"tau": 1e30}}, r"la_kfac\.tau is 1e\+30: must be"),
        ({"la_kfac": {"prior_precision": 1e30}}, r"la_kfac\.prior_precision is 1e\+30: must be"),
    ],
)
def test_a_number_that_would_make_the_result_meaningless_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        Settings(settings)


@pytest.mark.parametrize("text", ["a." * 2000 + "b=1", "a..b=1", "a.=1", ".a=1", "=1"])
def test_an_assignment_without_a_sound_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^--set .*: write it as name=value"):
        parse_assignment(text)


def test_a_deep_value_is_text() -> None:
    assert parse_assignment("steps=" + "[" * 5000) == {"steps": "[" * 5000}
    with pytest.raises(ValueError, match=r"^steps is '\[+\.\.\. \(5002 characters\): expected a whole number\.$"):
        Settings(parse_assignment("steps=" + "[" * 5000))


def test_unused_settings_are_named_with_their_option() -> None:
    check_used({"steps": 3, "ivon": {"lr": 1}, "per_task": {"wg_s": {"steps": 1}}}, ["ivon"], ["wg_s"])
    with pytest.raises(LookupError, match=r"^--set adamw: neither 'adamw' nor a method that starts from it"):
        check_used({"adamw": {"lr": 1}}, ["ivon"], ["wg_s"])


def test_a_method_takes_over_anothers_settings_where_it_has_none_of_its_own() -> None:
    low: dict[str, Any] = {"adamw": {"lr": 1.0, "eps": 0.5, "per_task": {"wg_s": {"lr": 2.0}}}}
    high: dict[str, Any] = {"adam_moments": {"eps": 0.25}}
    settings = Settings(low, high).over({"adamw": {"beta1": 0.5, "eps": 0.125}})
    plain, special = (settings.method("adam_moments", task).options("fit") for task in ("", "wg_s"))
    assert plain == {"lr": 1.0, "beta1": 0.5, "beta2": 0.999, "eps": 0.25, "weight_decay": 0.0}
    assert special == {**plain, "lr": 2.0}
    check_used({"adamw": {"lr": 1.0}}, with_bases(["adam_posterior"]), [])


def test_a_method_is_tuned_after_the_one_whose_settings_it_takes_over() -> None:
    grid: Any = SimpleNamespace(tune=SimpleNamespace(lists={"adam_posterior": {}, "adam_moments": {}, "adamw": {}}))
    assert stages(grid) == [["adamw"], ["adam_moments"], ["adam_posterior"]]
