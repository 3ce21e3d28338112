"""Grid files: their keys, variants, sweeps, seeds and tuning budgets; and the two that the suite ships."""

from __future__ import annotations

import codecs
import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import bench.grids
from bench.method import get_method, method_names
from bench.model.formats import EMBEDDED
from bench.plan.grid import Grid, Variant, read_grid, single
from bench.plan.runs import count_fits, families
from bench.plan.tune import Scored, plan_tuning, stages, write_choice
from bench.specs import RunSpec, key
from bench.task import get_task

GRIDS = Path(bench.grids.__file__).parent

SMALL = """
protocol = "clean"
methods = ["adamw", "ivon_mean", "ivon"]
tasks = ["notes_two", "notes_four"]
seeds = [3, 7]
[set]
steps = 10
"""


@pytest.fixture
def grid(tmp_path: Path) -> Any:
    """grid(text) writes a grid file and reads it; grid(text, **options) as read_grid."""

    def read(text: str, **options: Any) -> Grid:
        file = tmp_path / "g.toml"
        file.write_text(text)
        return read_grid(file, **options)

    return read


# --- what a grid plans ------------------------------------------------------------------------------------------------


def test_a_grid_is_every_method_task_and_seed_once(grid: Any) -> None:
    runs = grid(SMALL).runs()
    assert Counter((run.method, run.data.task, run.fit.seed) for run in runs) == Counter(
        (method, task, seed)
        for method in ("adamw", "ivon_mean", "ivon")
        for task in ("notes_two", "notes_four")
        for seed in (3, 7)
    )
    assert {run.purpose for run in runs} == {"result"}
    assert {run.fit.train.steps for run in runs} == {10}
    assert len({key(run) for run in runs}) == 12


def test_methods_that_share_a_posterior_share_a_training(grid: Any) -> None:
    found = grid(SMALL)
    assert count_fits(found.runs()) == {"adamw": 4, "ivon": 4}
    assert len(found.families()) == 8
    assert sorted(len(family.runs) for family in found.families()) == [1] * 4 + [2] * 4


def test_a_family_has_the_key_of_its_root(grid: Any) -> None:
    for family in grid(SMALL).families():
        assert family.key == key(family.root)
        assert {key(run.fit.root) for run in family.runs} == {family.key}


def test_the_clean_protocol_reports_test_and_the_paper_validation(grid: Any) -> None:
    assert {run.split for run in grid(SMALL).runs()} == {"test"}
    assert {run.split for run in grid(SMALL.replace('"clean"', '"paper"')).runs()} == {"validation"}
    assert {run.protocol for run in grid(SMALL).runs()} == {"clean"}


def test_the_clean_protocol_holds_out_a_tenth_of_train_where_there_is_no_test(grid: Any) -> None:
    runs = grid('protocol = "clean"\nmethods = ["adamw"]\ntasks = ["wg_s", "arc_e"]\nseeds = [1]').runs()
    assert {run.data.task: (run.split, run.fit.holdout) for run in runs} == {
        "wg_s": ("validation", 0.1),
        "arc_e": ("test", 0.0),
    }


def test_names_given_twice_count_once(grid: Any) -> None:
    text = SMALL.replace('["notes_two", "notes_four"]', '["notes_two", "notes_two"]')
    assert grid(text).tasks == ("notes_two",)


def test_per_task_settings_reach_their_task_only(grid: Any) -> None:
    text = SMALL + "[set.ivon]\ness = 10\n[set.ivon.per_task]\nnotes_two = { ess = 1e3 }\n"
    text += "[set.per_task]\nnotes_four = { steps = 99 }\n"
    runs = grid(text).runs()
    assert {(r.data.task, r.fit.options["ess"]) for r in runs if r.fit.method == "ivon"} == {
        ("notes_two", 1e3),
        ("notes_four", 10.0),
    }
    assert {(r.data.task, r.fit.train.steps) for r in runs} == {("notes_two", 10), ("notes_four", 99)}


def test_the_command_line_is_laid_over_the_file(grid: Any) -> None:
    found = grid(SMALL, overrides={"steps": 5, "ivon": {"ess": 7}})
    assert {run.fit.train.steps for run in found.runs()} == {5}
    assert {run.fit.options["ess"] for run in found.runs() if run.fit.method == "ivon"} == {7.0}


def test_the_command_line_is_laid_over_variants_and_single_tasks(grid: Any) -> None:
    text = SMALL + "[variants.long]\nsteps = 3000\nivon.ess = 5\n[variants.plain]\n"
    text += "[set.ivon.per_task.notes_two]\ness = 9\n"
    before = {(run.fit.train.steps, run.fit.options["ess"]) for run in grid(text).runs() if run.fit.method == "ivon"}
    assert before == {(3000, 5.0), (10, 9.0), (10, 1e6)}
    runs = grid(text, overrides={"steps": 5, "ivon": {"ess": 7}}).runs()
    assert {run.fit.train.steps for run in runs} == {5}
    assert {run.fit.options["ess"] for run in runs if run.fit.method == "ivon"} == {7.0}
    swept = grid(SWEEP, overrides={"ivon": {"tau": 3}}).runs()
    assert {run.options["tau"] for run in swept if run.purpose == "sweep"} >= {0, 0.5, 1, 2}


# --- sweeps and variants ----------------------------------------------------------------------------------------------

SWEEP = SMALL + "[sweep.ivon]\ntau = [0, 0.5, 1, 2]\ndraws = [10, 20]\n"


def test_a_sweep_adds_evaluations_and_no_training(grid: Any) -> None:
    plain, swept = grid(SMALL).runs(), grid(SWEEP).runs()
    assert count_fits(swept) == count_fits(plain)
    added = Counter((run.method, run.options["tau"], run.options["draws"]) for run in swept if run.purpose == "sweep")
    # tau = 1 and draws = 10 are the result itself
    assert added == {("ivon", tau, 10): 4 for tau in (0.0, 0.5, 2.0)} | {("ivon", 1.0, 20): 4}
    assert {key(run) for run in plain} == {key(run) for run in swept if run.purpose == "result"}


def test_a_sweep_wins_over_per_task_values(grid: Any) -> None:
    text = SMALL + "[set.ivon.per_task]\nnotes_two = { tau = 0.3 }\n[sweep.ivon]\ntau = [0, 1]\n"
    taus: dict[str, set[Any]] = {"notes_two": set(), "notes_four": set()}
    for run in grid(text).runs():
        if run.method == "ivon":
            taus[run.data.task].add((run.purpose, run.options["tau"]))
    assert taus["notes_two"] == {("result", 0.3), ("sweep", 0.0), ("sweep", 1.0)}
    assert taus["notes_four"] == {("result", 1.0), ("sweep", 0.0)}


VARIANTS = SMALL + "[variants.plain]\n[variants.wide]\nivon.ess = 10\nadamw.lr = 0.1\nsteps = 20\n"


def test_each_variant_is_a_whole_grid_with_its_settings(grid: Any) -> None:
    runs = grid(VARIANTS).runs()
    assert Counter(run.variant for run in runs) == {"plain": 12, "wide": 12}
    assert {(r.variant, r.fit.options["ess"], r.fit.train.steps) for r in runs if r.fit.method == "ivon"} == {
        ("plain", 1e6, 10),
        ("wide", 10.0, 20),
    }
    assert count_fits(runs) == {"adamw": 8, "ivon": 8}


def test_variants_that_train_alike_share_the_training(grid: Any) -> None:
    runs = grid(SMALL + "[variants.a]\n[variants.b]\nivon.tau = 0.5\n").runs()
    assert count_fits(runs) == {"adamw": 4, "ivon": 4}
    assert len({key(run) for run in runs}) == 24


def test_a_variant_includes_a_file_beside_the_grid_and_wins_over_it(grid: Any, tmp_path: Path) -> None:
    (tmp_path / "chosen.toml").write_text("[ivon]\ness = 5\nh0 = 2\n")
    text = SMALL + '[variants.tuned]\ninclude = "chosen.toml"\nivon.h0 = 3\n'
    (options,) = {tuple(sorted(r.fit.options.items())) for r in grid(text).runs() if r.fit.method == "ivon"}
    assert (dict(options)["ess"], dict(options)["h0"]) == (5.0, 3.0)


def test_a_variant_wins_over_per_task_settings_and_its_own_win_over_it(grid: Any, tmp_path: Path) -> None:
    (tmp_path / "chosen.toml").write_text("[ivon]\ness = 5\n")
    text = SMALL + "[set.ivon.per_task]\nnotes_two = { ess = 1, h0 = 7 }\nnotes_four = { ess = 2 }\n"
    text += '[set.per_task]\nnotes_two = { steps = 3 }\n[variants.tuned]\ninclude = "chosen.toml"\nsteps = 30\n'
    text += "[variants.tuned.ivon.per_task]\nnotes_four = { ess = 6 }\n"
    found = {
        (run.data.task, run.fit.options["ess"], run.fit.options["h0"], run.fit.train.steps)
        for run in grid(text).runs()
        if run.method == "ivon"
    }
    assert found == {("notes_two", 5.0, 7.0, 30), ("notes_four", 6.0, 1e-3, 30)}


def test_what_bench_tune_writes_plans_the_fits_it_chose(grid: Any, tmp_path: Path) -> None:
    """Per-task settings of the grid must not undo the choice."""
    text = SMALL + "[set.ivon.per_task]\nnotes_two = { ess = 5, h0 = 7 }\n[tune.ivon]\ness = [10, 20]\n"
    tuning = plan_tuning(grid(text))
    scored = [
        Scored(c, float(c.values["ess"] != 20), {"notes_two": 0.0}, c.values["ess"] == 20) for c in tuning.candidates
    ]
    write_choice(tuning, scored, tmp_path / "g.toml")
    runs = grid(text + '[variants.tuned]\ninclude = "g.tuned.toml"\n').runs()
    chosen = {
        (run.data.task, key(dataclasses.replace(run.fit, holdout=0, seed=1))) for run in tuning.candidates[1].runs
    }
    assert chosen == {
        (run.data.task, key(dataclasses.replace(run.fit, holdout=0, seed=1))) for run in runs if run.method == "ivon"
    }


def test_a_variant_whose_file_is_missing_is_refused_unless_variants_are_left_out(grid: Any) -> None:
    text = SMALL + '[variants.tuned]\ninclude = "missing.toml"\n'
    with pytest.raises(FileNotFoundError, match=r"There is no file .*/missing\.toml"):
        grid(text)
    assert grid(text, with_variants=False).variants == {"": Variant()}


def test_a_misspelt_setting_in_an_included_file_is_refused(grid: Any, tmp_path: Path) -> None:
    (tmp_path / "chosen.toml").write_text("[ivon]\nes = 5\n")
    with pytest.raises(LookupError, match=r"'ivon' has no hyperparameter 'es'\..*'ess'"):
        grid(SMALL + '[variants.tuned]\ninclude = "chosen.toml"\n')


# --- what a grid file may not say -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds =", "sedes =", "g.toml has no key 'sedes'. Did you mean 'seeds'"),
        ("[set]", "[sets]", "g.toml has no key 'sets'. Did you mean "),
        ("[set]", "[model]\nrevison = 'x'\n[set]", "[model] has no key 'revison'. Did you mean 'revision'?"),
        ('"clean"', '"claen"', "There is no protocol 'claen'. Did you mean 'clean'?"),
        ("steps = 10", "[sweep.swag]\ntau = [1]", "sweep names 'swag', which the grid does not have."),
        ("steps = 10", "[tune.swag]\ndraws = [1]", "tune names 'swag', which the grid does not have."),
        ("steps = 10", "[tune]\nhold = 0.2", "[tune] has no key 'hold'. Did you mean 'holdout'?"),
        ('"adamw"', '"adamv"', "There is no method 'adamv'. Did you mean 'adamw'"),
        ('"notes_two"', '"note_two"', "There is no task 'note_two'. Did you mean 'notes_two'"),
        ("steps = 10", "step = 10", "There is no setting 'step'. Did you mean 'steps'"),
        ("steps = 10", "[sweep.ivno]\ntau = [1]", "sweep names 'ivno', which is not a method. Did you mean 'ivon'"),
        (
            "steps = 10",
            "[sweep.ivon]\ntua = [1]",
            "sweep.ivon.tua is not a prediction-time hyperparameter of ivon.",
        ),
        (
            "steps = 10",
            "[sweep.ivon]\ness = [1]",
            "sweep.ivon.ess is not a prediction-time hyperparameter of ivon.",
        ),
        ("steps = 10", "[variants.x]\nivon.lrr = 1", "'ivon' has no hyperparameter 'lrr'. Did you mean 'lr'"),
        ('"clean"', '"clean"\nplugins = ["no_such_plugin"]', "--plugin no_such_plugin: no such module."),
    ],
)
def test_a_misspelt_name_gets_the_near_miss(grid: Any, old: str, new: str, said: str) -> None:
    assert SMALL.count(old) == 1
    with pytest.raises(LookupError) as error:
        grid(SMALL.replace(old, new))
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds = [3, 7]", "", "g.toml names no seeds: add `seeds = [...]`."),
        ("seeds = [3, 7]", "seeds = []", "g.toml names no seeds: add `seeds = [...]`."),
        ('"clean"', '["clean"]', "protocol is ['clean']: expected a name."),
        ("[3, 7]", "3", "seeds is 3: expected a list of whole numbers."),
        ("[3, 7]", "[1.5]", "seeds is [1.5]: expected a list of whole numbers."),
        ("[3, 7]", "[true]", "seeds is [True]: expected a list of whole numbers."),
        ('["notes_two", "notes_four"]', '"notes_two"', "tasks is 'notes_two': expected a list of names."),
        ('["adamw", "ivon_mean", "ivon"]', "[1]", "methods is [1]: expected a list of names."),
        ("steps = 10", "steps = 'x'", "steps is 'x': expected a whole number."),
        ("steps = 10", "[sweep.ivon]\ntau = 1", "sweep.ivon.tau is 1: expected a list of values."),
        ("steps = 10", "[sweep.ivon]\ntau = []", "sweep.ivon.tau is []: expected a list of values."),
        ("steps = 10", "[model]\nquantization = 'int4'", "quantization 'int4'."),
        ("steps = 10", "[model]\ndtype = 'float8'", "dtype 'float8'."),
        ("steps = 10", "[variants.x]\ninclude = 3", "variants.x.include is 3: expected the path"),
        ("steps = 10", "[variants.x]\nmethods = []", "variants.x.methods is []: expected a list of at least one name"),
        ("steps = 10", "[sweep.ivon]\ntau = [1, 1.0]", "sweep.ivon.tau is [1, 1.0]: each value counts once"),
        ("steps = 10", "[tune.ivon]\nlr = []", "tune.ivon.lr is []: expected a list of values."),
        ('"clean"', '"clean"\neval_every = -5', "eval_every is -5: expected a number of steps"),
        ('"clean"', '"clean"\nbatch_tokens = -5', "batch_tokens is -5: expected a number of tokens"),
        ('"clean"', '"clean"\ndata_dir = 3', "data_dir is 3: expected the path"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_a_sentence(grid: Any, old: str, new: str, said: str) -> None:
    assert SMALL.count(old) == 1
    with pytest.raises(ValueError) as error:
        grid(SMALL.replace(old, new))
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("steps = 0", "steps is 0: must be"),
        ("lora.r = 0", "lora.r is 0: must be"),
        ("lora.alpha = 0", "lora.alpha is 0.0: must be"),
        ("lora.targets = ['q_proj', '']", "lora.targets is .*: a layer's name is missing"),
        ("micro_batches = 9", "micro_batches is 9: must be"),
        ("ivon.ess = 0", "ess must be finite and above 0"),
        ("ivon.beta1 = 1", "beta1 must be at least 0 and below 1"),
        ("[variants.'a|b']", r"The variant 'a\|b' is not a label: use at most"),
    ],
)
def test_a_value_out_of_range_is_refused_when_the_grid_is_planned(grid: Any, settings: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        grid(SMALL.replace("steps = 10", settings)).runs()


@pytest.mark.parametrize("seed", [-1, 2**32 + 3])
def test_a_seed_that_an_ensemble_keeps_for_its_members_is_refused(grid: Any, seed: int) -> None:
    with pytest.raises(ValueError, match=f"^The seed {seed} is out of range: it must be from 0 to 4294967295"):
        grid(SMALL.replace("[3, 7]", f"[{seed}]")).runs()


def test_a_value_of_a_sweep_that_does_not_fit_is_refused_when_the_grid_is_planned(grid: Any) -> None:
    with pytest.raises(ValueError, match=r"^ivon\.tau is 'x': expected a number"):
        grid(SMALL + "[sweep.ivon]\ntau = [0, 'x']\n").runs()


def test_a_reference_that_does_not_fit_a_task_is_refused_when_the_grid_is_planned(grid: Any) -> None:
    text = 'methods = ["bayes_optimal"]\ntasks = ["notes_two", "boolq"]\nseeds = [1]\n'
    with pytest.raises(ValueError, match=r"needs a task whose answer distribution is known; 'boolq' is not one"):
        grid(text).runs()


@pytest.mark.parametrize(
    "text",
    ["set = 3\n", "variants = 3\n", "sweep = 3\n", "model = 3\n", "variants.x = 3\n", "sweep.ivon = [1]\n"],
)
def test_a_key_that_is_no_table_is_refused_with_a_sentence(grid: Any, text: str) -> None:
    with pytest.raises((ValueError, LookupError)):
        grid(text + SMALL.replace("[set]\nsteps = 10\n", ""))


@pytest.mark.parametrize(
    ("name", "value"), [("eval_every", '"often"'), ("eval_every", "2.5"), ("allow_partial_data", '"no"')]
)
def test_a_scalar_of_the_wrong_type_is_refused_by_name(grid: Any, name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is"):
        grid(f"{name} = {value}\n{SMALL}")


def test_the_data_folder_lies_beside_the_grid_unless_the_command_line_says_otherwise(grid: Any, tmp_path: Path) -> None:
    text = 'data_dir = "d"\nallow_partial_data = true\n' + SMALL
    assert grid(text).source.data_dir == tmp_path / "d"
    assert grid(text).source.allow_partial is True
    assert grid(text, data_dir=Path("/elsewhere")).source.data_dir == Path("/elsewhere")
    assert grid(SMALL).source.data_dir is None
    assert grid(SMALL).source.allow_partial is False


def test_a_grid_file_may_start_with_a_byte_order_mark_and_end_its_lines_with_crlf(grid: Any, tmp_path: Path) -> None:
    plain = grid(SMALL).runs()
    (tmp_path / "g.toml").write_bytes(codecs.BOM_UTF8 + SMALL.replace("\n", "\r\n").encode())
    assert read_grid(tmp_path / "g.toml").runs() == plain


def test_an_included_file_may_start_with_a_byte_order_mark(grid: Any, tmp_path: Path) -> None:
    (tmp_path / "chosen.toml").write_bytes(codecs.BOM_UTF8 + b"[ivon]\r\ness = 5\r\n")
    runs = grid(SMALL + '[variants.tuned]\ninclude = "chosen.toml"\n').runs()
    assert {run.fit.options["ess"] for run in runs if run.fit.method == "ivon"} == {5.0}


def test_a_tilde_is_the_home_folder_in_every_path(grid: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / "base").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    (home / "chosen.toml").write_text("[ivon]\ness = 5\n")
    found = grid('data_dir = "~/d"\n' + SMALL + '[variants.tuned]\ninclude = "~/chosen.toml"\n')
    assert found.source.data_dir == home / "d"
    assert found.variants["tuned"].settings == {"ivon": {"ess": 5}}
    with pytest.raises(ValueError, match=rf"^{home}/base has no config\.json"):
        grid(SMALL + '[model]\nid = "~/base"\n')
    (home / "g.toml").write_text(SMALL)
    assert read_grid(Path("~/g.toml")).name == "g"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("revision = 'main'", "The model embedded has no revisions, so 'main'"),
        ("id = 'base'\nrevision = 'main'", "The model .*/base has no revisions, so 'main'"),
        ("id = 'base.bin'", r".*/base\.bin is neither a folder nor a .gguf file"),
        ("id = './nowhere'", "There is no folder nowhere"),
        ("id = ''", "The model is ''"),
    ],
)
def test_what_a_choice_of_model_makes_meaningless_is_refused(grid: Any, tmp_path: Path, model: str, said: str) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base.bin").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=f"^{said}"):
        grid(f"{SMALL}[model]\n{model}\n")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"swag": {"draws": 3}}, "--set swag: neither 'swag' nor a method that starts from it is planned"),
        ({"per_task": {"boolq": {"steps": 3}}}, r"--set per_task\.boolq: that task is not planned"),
        ({"ivon": {"per_task": {"boolq": {"ess": 3}}}}, r"--set ivon\.per_task\.boolq: that task is not planned"),
    ],
)
def test_a_setting_of_the_command_line_that_nothing_would_read_is_refused(
    grid: Any, overrides: dict[str, Any], said: str
) -> None:
    with pytest.raises(LookupError, match=f"^{said}"):
        grid(SMALL, overrides=overrides)
    with pytest.raises(LookupError, match=f"^{said}"):
        single("ivon_mean", "notes_two", 1, overrides=overrides)
    assert single("ivon_mean", "notes_two", 1, overrides={"ivon": {"lr": 1}}).runs()[0].fit.options["lr"] == 1.0


@pytest.mark.parametrize(
    "label", ["1e5", "2024-01", "=x", "+x", "-x", "@x", "007", "1.5", "inf", "TRUE", "Mar 1", "3 May", "x "]
)
def test_a_label_that_a_spreadsheet_would_change_is_refused(grid: Any, label: str) -> None:
    with pytest.raises(
        ValueError, match=r"^The variant .* is (not a label|a number, date or formula to a spreadsheet)"
    ):
        grid(f"{SMALL}[variants.'{label}']\n")


@pytest.mark.parametrize("label", ["tuned", "v1e5", "2x", "tau 0.5", "decay1", "no-dropout", "a+b", "1_000"])
def test_other_labels_are_accepted(grid: Any, label: str) -> None:
    assert list(grid(f"{SMALL}[variants.'{label}']\n").variants) == [label]


def test_one_variant_may_be_the_main_one(grid: Any) -> None:
    text = SMALL + "[variants.a]\n[variants.b]\nmain = true\n"
    assert grid(text).main_variant == "b"
    assert grid(SMALL).main_variant is None
    with pytest.raises(ValueError, match="The variants b and c are both marked `main`: mark one"):
        grid(text + "[variants.c]\nmain = true\n")


def test_trackers_are_named_in_a_table(grid: Any) -> None:
    assert grid(SMALL + "[tracking]\ntrackers = ['csv', 'csv']\n").trackers == ("csv",)
    with pytest.raises(LookupError, match=r"There is no tracker 'cvs'. Did you mean 'csv'"):
        grid(SMALL + "[tracking]\ntrackers = ['cvs']\n")
    with pytest.raises(LookupError, match=r"\[tracking\] has no key 'tracker'\. Did you mean 'trackers'"):
        grid(SMALL + "[tracking]\ntracker = ['csv']\n")


def test_tables_of_launchers_are_checked_by_them(grid: Any) -> None:
    seen: list[Any] = []
    assert grid(SMALL + "[pool]\nx = 1\n", launchers={"pool": seen.append}).launchers == {"pool": {"x": 1}}
    assert seen == [{"x": 1}]
    with pytest.raises(LookupError, match=r"g\.toml has no key 'pol'\. Did you mean 'pool'"):
        grid(SMALL + "[pol]\nx = 1\n", launchers={"pool": seen.append})
    with pytest.raises(ValueError, match="pool is 3: it is a table of settings"):
        grid("pool = 3\n" + SMALL, launchers={"pool": seen.append})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SMALL.replace("[3, 7]", str(list(range(10_000)))), "g asks for 60000 evaluations, and 50000 is the most"),
        (SMALL + f"[sweep.ivon]\ndraws = {list(range(1, 20_000))}\n", "g asks for .* evaluations"),
    ],
)
def test_a_grid_that_nobody_could_mean_is_refused_at_once(grid: Any, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        grid(text).runs()


def test_a_search_that_nobody_could_mean_is_refused_at_once(grid: Any) -> None:
    values = list(range(1, 40))
    text = "".join(f"{name} = {values}\n" for name in ("lr", "ess", "h0", "clip_radius", "train_draws", "draws"))
    with pytest.raises(ValueError, match=r"\[tune\] of g asks for .* evaluations"):
        plan_tuning(grid(SMALL + "[tune.ivon]\n" + text))


@pytest.mark.parametrize("members", [1001, 1_000_000])
def test_an_ensemble_of_more_members_than_anyone_trains_is_refused_at_once(grid: Any, members: int) -> None:
    text = SMALL.replace('"ivon_mean"', '"ensemble"') + f"ensemble.members = {members}\n"
    with pytest.raises(ValueError, match=rf"ensemble\.members is {members}: must be at most 1000"):
        grid(text).runs()


# --- tuning -----------------------------------------------------------------------------------------------------------

TUNE = SMALL + "[tune]\nholdout = 0.25\nseeds = [101]\n[tune.adamw]\nlr = [1e-3, 2e-3]\n"


def test_a_search_tries_every_combination_on_every_task_and_seed(grid: Any) -> None:
    tuning = plan_tuning(grid(TUNE + "[tune.ivon]\nlr = [0.1]\ness = [10, 20]\n"))
    assert [(c.method, dict(c.values)) for c in tuning.candidates] == [
        ("adamw", {"lr": 1e-3}),
        ("adamw", {"lr": 2e-3}),
        ("ivon", {"lr": 0.1, "ess": 10}),
        ("ivon", {"lr": 0.1, "ess": 20}),
    ]
    for candidate in tuning.candidates:
        assert [(run.data.task, run.fit.seed) for run in candidate.runs] == [("notes_two", 101), ("notes_four", 101)]
        for run in candidate.runs:
            assert {name: run.fit.options[name] for name in candidate.values} == candidate.values
    assert len(tuning.families()) == 8


def test_a_search_may_judge_on_a_part_of_the_tasks(grid: Any) -> None:
    text = TUNE.replace("seeds = [101]", "seeds = [101]\ntasks = ['notes_four']")
    tuning = plan_tuning(grid(text))
    assert {run.data.task for candidate in tuning.candidates for run in candidate.runs} == {"notes_four"}
    assert {run.data.task for run in grid(text).runs()} == {"notes_two", "notes_four"}


def test_a_search_scores_held_out_training_data_only(grid: Any) -> None:
    for candidate in plan_tuning(grid(TUNE)).candidates:
        assert {(run.split, run.fit.holdout, run.purpose) for run in candidate.runs} == {("holdout", 0.25, "tune")}


def test_unequal_budgets_are_refused(grid: Any) -> None:
    with pytest.raises(ValueError, match=r"unequal budgets \(\{'adamw': 2, 'ivon': 3\}\): list equally many"):
        plan_tuning(grid(TUNE + "[tune.ivon]\nlr = [1, 2, 3]\n"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"g\.toml has no \[tune\.<method>\] table"),
        ("[tune]\nholdout = 0.25\n", r"g\.toml has no \[tune\.<method>\] table"),
        ("[tune.ivno]\nlr = [1]\n", "tune names 'ivno', which is not a method. Did you mean 'ivon'"),
        ("[tune.ivon]\nlrr = [1]\n", r"tune\.ivon\.lrr is not a hyperparameter of ivon\. Did you mean 'lr'"),
        ("[tune.ivon]\nlr = 1\n", r"tune\.ivon\.lr is 1: expected a list of values"),
        ("[tune]\nhold_out = 1\n[tune.ivon]\nlr = [1]\n", r"\[tune\] has no key 'hold_out'\. Did you mean 'holdout'"),
        ("[tune]\ncriterion = 'nl'\n[tune.ivon]\nlr = [1]\n", r"tune\.criterion is 'nl'\. Did you mean 'nll'"),
        ("[tune]\nholdout = 0\n[tune.ivon]\nlr = [1]\n", r"tune\.holdout is 0: expected a share"),
        ("[tune]\nholdout = 1\n[tune.ivon]\nlr = [1]\n", r"tune\.holdout is 1: expected a share"),
        ("[tune.ivon]\nlr = ['x']\n", r"ivon\.lr is 'x': expected a number"),
        ("[tune.ivon]\nlr = [1, 1]\n", r"tune\.ivon\.lr is \[1, 1\]: each value counts once"),
        ("[tune.ivon]\n", r"\[tune\.ivon\] is empty: list the values"),
        ("[tune]\nseeds = []\n[tune.ivon]\nlr = [1]\n", r"tune\.seeds is \[\]: expected a list of whole numbers"),
        ("[tune]\ntasks = []\n[tune.ivon]\nlr = [1]\n", r"tune\.tasks is \[\]: expected a list of at least one name"),
        (
            "[tune]\ntasks = ['notes_tow']\n[tune.ivon]\nlr = [1]\n",
            r"tune\.tasks names 'notes_tow', which the grid does not have\. Did you mean 'notes_two'",
        ),
    ],
)
def test_a_search_that_is_misspelt_is_refused(grid: Any, text: str, said: str) -> None:
    with pytest.raises((ValueError, LookupError), match=said):
        plan_tuning(grid(SMALL + text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tune]\ncriterion = 'nl'\n", r"tune\.criterion is 'nl'\. Did you mean 'nll'"),
        ("[tune]\ncriterion = ['nll']\n", r"tune\.criterion is \['nll'\]"),
        ("[tune]\nholdout = 2\n", r"tune\.holdout is 2: expected a share"),
        ("[tune]\nseeds = [0.5]\n", r"tune\.seeds is \[0\.5\]: expected a list of whole numbers"),
        ("[tune.adamw]\nlr = [-1]\n", r"adamw\.lr is -1\.0: must be at least 0"),
        ("[tune.adamw]\nlr = [0, '0.0']\n", r"tune\.adamw\.lr is \[0, '0\.0'\]: each value counts once"),
        ("[sweep.ivon]\ntau = [0.5, 'x']\n", r"ivon\.tau is 'x': expected a number"),
        ("[sweep.ivon]\ntau = [0.5, '0.5']\n", r"sweep\.ivon\.tau is .*: each value counts once"),
    ],
)
def test_values_that_no_run_could_have_are_refused_when_the_grid_is_read(grid: Any, text: str, said: str) -> None:
    with pytest.raises((ValueError, LookupError), match=said):
        grid(SMALL + text)


def test_a_method_is_tuned_after_its_base_and_on_what_was_chosen_for_it(grid: Any) -> None:
    text = TUNE + "[tune.la_kfac]\nprior_precision = [0, 10]\n[tune.ivon]\nlr = [1, 2]\n"
    read = grid(text.replace('"ivon_mean"', '"la_kfac"'))
    assert stages(read) == [["adamw", "ivon"], ["la_kfac"]]
    tuning = plan_tuning(read, ["la_kfac"], {"adamw": {"lr": 2e-3}})
    assert [dict(c.values) for c in tuning.candidates] == [{"prior_precision": 0}, {"prior_precision": 10}]
    assert {run.fit.bases[0].options["lr"] for c in tuning.candidates for run in c.runs} == {2e-3}
    assert {c.method for c in plan_tuning(read).candidates} == {"adamw", "ivon", "la_kfac"}


def test_a_variant_may_have_some_of_the_methods_only(grid: Any) -> None:
    text = SMALL + "[variants.all]\n[variants.few]\nmethods = ['ivon']\nivon.lr = 1\n"
    found = Counter((run.variant, run.method) for run in grid(text).runs())
    assert found == {("all", "adamw"): 4, ("all", "ivon_mean"): 4, ("all", "ivon"): 4, ("few", "ivon"): 4}
    swept = SMALL + "[sweep.ivon]\ntau = [0.5]\n[variants.all]\n[variants.plain]\nsweep = false\n"
    assert Counter(run.variant for run in grid(swept).runs() if run.purpose == "sweep") == {"all": 4}
    with pytest.raises(LookupError, match=r"variants\.few\.methods names 'ivno', which the grid .* Did you mean 'ivon"):
        grid(SMALL + "[variants.few]\nmethods = ['ivno']\n")


def test_other_tasks_are_evaluated_from_the_same_fits(grid: Any) -> None:
    found = grid(SMALL + "[eval]\nnotes_four = ['arc_c', 'mmlu_college_physics']\n").runs()
    assert len(found) == 3 * 2 * (2 + 2) and count_fits(found) == {"adamw": 4, "ivon": 4}
    splits = {run.data.task: (run.split, run.fit.data.task) for run in found if run.data.task != run.fit.data.task}
    assert splits == {"arc_c": ("test", "notes_four"), "mmlu_college_physics": ("test", "notes_four")}
    with pytest.raises(LookupError, match="Did you mean 'notes_four'"):
        grid(SMALL + "[eval]\nnotes_for = ['arc_c']\n")
    with pytest.raises(ValueError, match="cannot be evaluated on 'arc_c'"):
        grid(SMALL + "[eval]\nnotes_two = ['arc_c']\n").runs()


def test_a_candidate_wins_over_per_task_settings(grid: Any) -> None:
    text = SMALL + "[set.ivon.per_task]\nnotes_two = { ess = 5 }\n[tune.ivon]\ness = [10, 20]\n"
    for candidate in plan_tuning(grid(text)).candidates:
        assert {run.fit.options["ess"] for run in candidate.runs} == {candidate.values["ess"]}


# --- the grids that the suite ships -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paper() -> Grid:
    return read_grid(GRIDS / "paper.toml")


@pytest.fixture(scope="module")
def paper_runs(paper: Grid) -> list[RunSpec]:
    return paper.runs()


@pytest.fixture(scope="module")
def demo() -> Grid:
    return read_grid(GRIDS / "demo.toml", with_variants=(GRIDS / "demo.tuned.toml").is_file())


def test_every_shipped_grid_is_tested_here() -> None:
    grids = {file.name for file in GRIDS.glob("*.toml") if not file.name.endswith(".tuned.toml")}
    assert grids >= {"demo.toml", "paper.toml"}
    for name in grids - {"demo.toml"}:
        assert read_grid(GRIDS / name).runs()


def test_the_blob_grid_has_the_published_settings() -> None:
    grid = read_grid(GRIDS / "blob.toml")
    assert (grid.protocol, grid.seeds, grid.variants["published"].main) == ("paper", (1, 2, 3), True)
    fits = [run.fit for run in grid.runs() if run.fit.method == "blob"]
    assert {(fit.options["kl"], fit.model.lora.targets) for fit in fits} == {
        (kl, ("q_proj", "v_proj", "head")) for kl in ("cycle", "elbo")
    }
    for fit in fits:
        assert (fit.train.steps, fit.train.batch_size, fit.train.max_length) == (5000, 4, 300)
        names = ("lr", "kl_lr", "prior_sd", "rho0", "gamma", "warmup", "eps")
        assert [fit.options[name] for name in names] == [1e-4, 0.01, 0.2, 0.05, 8.0, 0.06, 1e-6]
        assert (fit.model.lora.r, fit.model.lora.alpha, fit.model.lora.dropout) == (8, 16.0, 0.0)


def test_the_tfb_grid_has_the_published_settings() -> None:
    runs = [run for run in read_grid(GRIDS / "tfb.toml").runs() if run.variant == "published"]
    assert {run.fit.model.id for run in runs} == {"meta-llama/Llama-3.1-8B"}
    for run in runs:
        if run.method.startswith("tfb"):
            names = ("rise", "judged", "epsilon", "smallest", "largest", "search_draws")
            assert [run.fit.options[name] for name in names] == ["change", "mixture", 0.003, 0.001, 0.015, 10]
            assert (run.options["predictive"], run.options["draws"]) == ("flipout", 10)
        if run.fit.root.method == "blob":
            assert [run.fit.root.options[name] for name in ("kl_lr", "prior_sd")] == [0.0075, 0.15]


def test_the_scalabl_grid_has_the_published_settings() -> None:
    runs = [run for run in read_grid(GRIDS / "scalabl.toml").runs() if run.method == "scalabl"]
    assert {(run.variant, run.fit.options["kl"], run.options["predictive"]) for run in runs} == {
        ("published", "as_published", "draws"), ("reverse", "reverse", "draws"), ("elbo", "reverse", "draws"),
        ("linearised", "reverse", "linearised"),
    }  # fmt: skip
    for run in runs:
        names = ("lr", "kl_lr", "prior_sd", "sd0", "gamma", "warmup", "eps")
        assert [run.fit.options[name] for name in names] == [1e-4, 0.2, 1.0, 0.05, 8.0, 0.06, 1e-6]
        assert run.fit.model.lora.targets == ("q_proj", "v_proj", "head") and run.fit.model.lora.dropout == 0
    assert len({key(run.fit) for run in runs if run.data.task == "wg_s" and run.fit.seed == 0}) == 3


def test_the_paper_grid_is_table_1(paper: Grid) -> None:
    assert paper.protocol == "paper"
    assert set(paper.tasks) == {"wg_s", "arc_c", "arc_e", "wg_m", "obqa", "boolq"}
    table = {"adamw", "mc_dropout", "la_kfac", "la_diag", "swa", "swag", "ivon_mean", "ivon"}
    assert set(paper.methods) == table | {"zero_shot", "temperature", "ensemble"}
    assert paper.seeds == (21, 42, 87)
    assert paper.eval_every == 1000
    assert paper.variants == {"": Variant()}


def test_the_paper_grid_has_a_family_for_each_task_seed_and_training(paper: Grid, paper_runs: list[RunSpec]) -> None:
    table = [run for run in paper_runs if run.method not in ("zero_shot", "temperature", "ensemble")]
    roots = Counter(family.root.method for family in families(table))
    assert roots == {"adamw": 6 * 3, "swa": 6 * 3, "ivon": 6 * 3}
    fits = count_fits(table)
    assert fits == {"adamw": 18, "swa": 18, "ivon": 18, "la_kfac": 18, "la_diag": 18}
    beside = count_fits(paper_runs)
    assert beside["adamw"] - fits["adamw"] == 2 * 18 + 18  # the ensembles' other members, and 90 % for temperature
    assert sum(run.purpose == "result" for run in paper_runs) == 6 * 3 * len(paper.methods)


def test_the_paper_grid_reports_validation_on_every_task(paper: Grid, paper_runs: list[RunSpec]) -> None:
    assert {(run.split, run.fit.holdout) for run in paper_runs} == {("validation", 0.0)}
    assert all("validation" in get_task(task).rows for task in paper.tasks)


def test_the_paper_grid_has_the_base_model_of_the_protocol(paper_runs: list[RunSpec]) -> None:
    (model,) = {run.fit.model for run in paper_runs}
    assert model.id == "meta-llama/Llama-2-7b-hf"
    assert model.revision == "01c7f73d771dfac7d292323805ebc428287df4f9"
    assert model.quantization == "int8"
    lora = model.lora
    assert (lora.r, lora.alpha, lora.dropout, lora.targets) == (8, 16.0, 0.1, ("q_proj", "v_proj"))


def test_the_paper_grid_trains_as_the_protocol_says(paper_runs: list[RunSpec]) -> None:
    for run in paper_runs:
        train = run.fit.root.train
        assert (train.steps, train.batch_size, train.micro_batches) == (10_000, 4, 1)
        assert (train.max_length, train.clip_norm) == (320, 0.0)


def test_the_paper_grid_has_the_adamw_of_the_protocol(paper_runs: list[RunSpec]) -> None:
    for run in paper_runs:
        if run.fit.root.method == "adamw":
            options = run.fit.root.options
            assert (options["lr"], options["weight_decay"], options["eps"]) == (5e-5, 0.0, 1e-8)


IVON = {  # PROTOCOL section 4
    "wg_s": (1e7, 3e-4),
    "wg_m": (1e8, 3e-4),
    "arc_c": (1e6, 1e-3),
    "arc_e": (1e6, 1e-3),
    "obqa": (1e6, 1e-3),
    "boolq": (1e7, 3e-4),
}


@pytest.mark.parametrize("task", IVON)
def test_the_paper_grid_has_the_ivon_of_the_protocol(paper_runs: list[RunSpec], task: str) -> None:
    fits = [run.fit for run in paper_runs if run.fit.method == "ivon" and run.data.task == task]
    assert {fit.seed for fit in fits} == {21, 42, 87}
    for fit in fits:
        options = fit.options
        assert (options["ess"], options["h0"]) == IVON[task]
        assert (options["lr"], options["beta1"], options["beta2"]) == (0.03, 0.9, pytest.approx(1 - 1e-5, abs=1e-15))
        assert (options["clip_radius"], options["weight_decay"]) == (1e-3, 0.0)
        assert (options["rescale_lr"], options["train_draws"]) == (False, 1)


@pytest.mark.parametrize(("task", "sd"), [("wg_s", 0.018), ("wg_m", 0.006), ("arc_e", 0.032)])
def test_those_settings_give_the_initial_spread_of_the_protocol(
    paper_runs: list[RunSpec], task: str, sd: float
) -> None:
    options = next(run.fit.options for run in paper_runs if run.fit.method == "ivon" and run.data.task == task)
    ess, h0, delta = (float(options[name]) for name in ("ess", "h0", "weight_decay"))  # type: ignore[arg-type]
    assert (ess * (h0 + delta)) ** -0.5 == pytest.approx(sd, abs=5e-4)


def test_the_paper_grid_predicts_with_ten_draws_and_sweeps_tau_as_figure_1(paper_runs: list[RunSpec]) -> None:
    ivon = [run for run in paper_runs if run.method == "ivon"]
    assert {tuple(run.options.items()) for run in ivon if run.purpose == "result"} == {(("draws", 10), ("tau", 1.0))}
    swept = {run.options["tau"] for run in ivon}
    assert {min(swept), max(swept)} == {0.0, 1.0}
    assert len(swept) >= 11


def test_the_paper_sweep_costs_no_training(paper_runs: list[RunSpec]) -> None:
    results = [run for run in paper_runs if run.purpose == "result"]
    assert count_fits(paper_runs) == count_fits(results)


def test_the_demo_grid_is_the_embedded_base_on_the_exact_tasks(demo: Grid) -> None:
    assert demo.model.id == "embedded"
    assert set(demo.tasks) == {"notes_two", "notes_four", "notes_bool"}
    assert set(demo.methods) >= {"bayes_optimal", "adamw", "ivon_mean", "ivon"}
    assert len(demo.seeds) >= 2
    assert demo.protocol == "clean"


def test_the_demo_grid_reports_test_and_tunes_on_other_seeds(demo: Grid) -> None:
    assert {run.split for run in demo.runs()} == {"test"}
    assert not set(demo.tune.seeds or ()) & set(demo.seeds)


def own_methods() -> set[str]:
    """The suite's own: other tests register plug-ins."""
    return {name for name in method_names() if get_method(name).__module__.startswith("methods.")}


def test_every_method_of_the_suite_is_in_a_grid(demo: Grid) -> None:
    """What the demo has no time for is in another."""
    others = [read_grid(file) for file in GRIDS.glob("*.toml") if not file.name.endswith(".tuned.toml")]
    assert {run.method for run in demo.runs()} == set(demo.methods) - {"map"} <= own_methods()
    assert "map" in demo.tune.lists and "map" in read_grid(GRIDS / "ablations.toml").methods  # tuned here, shown there
    shown = set(demo.methods).union(*(grid.methods for grid in others))
    assert own_methods() == {name.removesuffix("_ts") for name in shown}  # <name>_ts is made of <name>


@pytest.mark.parametrize("variant", ["long", "tuned"])
def test_the_demo_grid_trains_each_root_once(demo: Grid, variant: str) -> None:
    """For each task and seed: AdamW, SWA and IVON carry all rows of Table 1."""
    runs = [run for run in demo.runs() if run.variant == variant]
    each = len(demo.tasks) * len(demo.seeds)
    trained = {name: count // each for name, count in count_fits(runs).items() if get_method(name).base is None}
    assert max(trained.values()) == 1
    table = {"adamw", "mc_dropout", "la_kfac", "la_diag", "swa", "swag", "ivon_mean", "ivon"}
    assert table <= {run.method for run in runs}
    shared = count_fits([run for run in runs if run.method in {*table, "temperature"}])
    roots = {name: count // each for name, count in shared.items() if get_method(name).base is None}
    assert roots == {"adamw": 1, "swa": 1, "ivon": 1}


def test_the_demo_grid_trains_long_as_it_states(demo: Grid) -> None:
    """Tens of epochs, as in the paper, whatever is tuned for shorter trainings."""
    fits = {run.fit.root.method: run.fit.root for run in demo.runs() if run.variant == "long"}
    assert demo.main_variant == "long" and {fits[name].train.steps for name in ("adamw", "swa", "ivon")} == {3000}
    assert [fits[name].options["lr"] for name in ("adamw", "swa", "ivon")] == [2e-3, 2e-3, 0.3]
    assert [fits["ivon"].options[name] for name in ("ess", "h0", "clip_radius")] == [2e4, 1e-2, 1e-3]
    assert 3000 * fits["adamw"].train.batch_size / 256 > 40  # epochs


def test_the_demo_grid_has_two_labelled_variants(demo: Grid) -> None:
    if demo.variants == {"": Variant()}:
        pytest.skip("bench tune has yet to write demo.tuned.toml")
    assert set(demo.variants) == {"long", "tuned"}


def test_the_ablations_are_the_demos_tasks_and_the_papers_settings(demo: Grid) -> None:
    ablations = read_grid(GRIDS / "ablations.toml")
    assert (ablations.tasks, ablations.protocol, ablations.model) == (demo.tasks, demo.protocol, demo.model)
    assert set(ablations.variants) == {"tuned", "paper", "evidence", "sampled"}
    runs = [run for run in ablations.runs() if run.variant == "paper" and run.fit.method == "adamw"]
    assert {run.fit.options["lr"] for run in runs} == {5e-5}
    known = {key(run.fit) for run in demo.runs() if run.variant == "tuned"}
    shared = {run.method for run in demo.runs()}
    fits = {key(run.fit) for run in ablations.runs() if run.variant == "tuned" and run.method in shared}
    assert fits <= known


def test_values_to_try_are_judged_with_the_settings_of_the_grid(grid: Any) -> None:
    base = 'methods = ["ivon2", "csgld"]\ntasks = ["notes_two"]\nseeds = [1]\n[set]\nsteps = 8\n'
    one = base + "ivon2.gamma = 0\n[tune.ivon2]\ness = [1e4, 1e5]\n"
    two = base + "csgld.samples = 30\n[tune.csgld]\ncycles = [3, 5]\n"
    for text in (one, two):
        assert len(plan_tuning(grid(text)).candidates) == 2
    with pytest.raises(ValueError, match=r"csgld\.samples is 30 and csgld\.cycles 7"):
        plan_tuning(grid(two.replace("5]", "7]")))


def test_a_setting_of_the_command_line_that_tuning_would_replace_is_refused(grid: Any) -> None:
    text = SMALL + "[tune.adamw]\nlr = [1e-3, 2e-3]\n"
    for overrides in ({"adamw": {"lr": 0.5}}, {"adamw": {"per_task": {"notes_two": {"lr": 0.5}}}}):
        with pytest.raises(ValueError, match=r"^--set adamw\.lr: \[tune\.adamw\] tries values of lr, so nothing"):
            plan_tuning(grid(text, overrides=overrides))
    assert plan_tuning(grid(text, overrides={"adamw": {"eps": 1e-7}})).candidates


@pytest.mark.parametrize("share", [0.9, 0.95])
def test_a_holdout_that_leaves_nothing_to_train_on_is_refused(grid: Any, share: float) -> None:
    text = 'protocol = "paper"\nmethods = ["tfb"]\ntasks = ["notes_two"]\nseeds = [1]\n[set]\nsteps = 2\n'
    text += f"[tune]\nholdout = {share}\n[tune.tfb]\nepsilon = [0.1, 0.2]\n"
    with pytest.raises(
        ValueError, match=r"^tfb sets 10 % of the training split aside for tuning, and 9[05] % is scored"
    ):
        plan_tuning(grid(text))
    assert plan_tuning(grid(text.replace(str(share), "0.8"))).candidates


def test_a_base_of_a_grid_may_be_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GGUF file is in the hub's cache."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "abc").write_bytes(b"GGUF")
    (tmp_path / "base.gguf").symlink_to(tmp_path / "blobs" / "abc")
    for place, name in ((tmp_path, "base.gguf"), (tmp_path / "blobs", "base.gguf"), (tmp_path, tmp_path / "base.gguf")):
        text = f'methods = ["adamw"]\ntasks = ["notes_two"]\nseeds = [1]\n[model]\nid = "{name}"\n'
        (tmp_path / "g.toml").write_text(text)
        monkeypatch.chdir(place)
        found = read_grid(tmp_path / "g.toml").model_path
        assert found is not None and found.name == "base.gguf"


def test_an_adapter_and_a_base_of_a_grid_are_those_next_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    text = 'methods = ["adapter"]\ntasks = ["notes_two"]\nseeds = [1]\n[model]\nid = "embedded"\nadapter = "mine"\n'
    (tmp_path / "there" / "g.toml").write_text(text)
    for number, place in enumerate(("there", ".")):
        base = get_peft_model(AutoModelForCausalLM.from_pretrained(EMBEDDED), LoraConfig(target_modules=["q_proj"]))
        with torch.no_grad():
            base.get_parameter(next(name for name, _ in base.named_parameters() if "lora_B" in name)).add_(number + 1)
        base.save_pretrained(tmp_path / place / "mine")
    keys = set()
    for place in ("there", "."):
        monkeypatch.chdir(tmp_path / place)
        keys.add(read_grid(tmp_path / "there" / "g.toml").families()[0].key)
    assert len(keys) == 1
    assert read_grid(tmp_path / "there" / "g.toml", model={"adapter": "mine"}).families()[0].key not in keys
