"""Markdown tables: gaps, bold, averages, labels, costs, settings."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from analysis import report
from analysis.page.data import page_data
from analysis.records.labels import distinguish, flatten
from analysis.records.load import load
from analysis.statistics.study import study
from analysis.statistics.summary import Summary, summarize
from analysis.tables import costs, leaderboard, results, settings, tuning
from analysis.tables.preamble import preamble
from bench.specs import key


def squeezed(text: str) -> str:
    """A table without its padding."""
    return re.sub(r" +", " ", text)


def test_summary_by_hand():
    assert summarize([0.25]) == Summary(0.25, None, None, 1)
    found = summarize([1.0, 2.0, 4.0])  # deviations -4/3, -1/3, 5/3: squares sum to 14/3
    assert found.mean == pytest.approx(7 / 3)
    assert found.sd == pytest.approx((7 / 3) ** 0.5)
    assert found.sem == pytest.approx((7 / 9) ** 0.5)


def test_results_table(store):
    values = {("adamw", "one"): (0.5, 0.7), ("adamw", "two"): (0.8, 0.8), ("zebra", "one"): (0.6, 0.6)}
    values |= {("optimum", "one"): (0.9, 0.9), ("optimum", "two"): (0.9, 0.9), ("ivon", "two"): (0.7, 0.9)}
    for (method, task), pair in values.items():
        for seed, value in enumerate(pair, 1):
            store.add(store.spec(method, task, seed), {"accuracy": value}, trained=method != "optimum")
    # a tie is bold twice; the reference is never bold; no average where a task is missing
    assert results.TABLE.body(study(store.root)) == (
        "### Protocol clean, model embedded, variant tuned\n\n"
        "**Accuracy (%) ↑**\n\n"
        "| method  |                  one |                   two |      average |\n"
        "| :------ | -------------------: | --------------------: | -----------: |\n"
        "| optimum |   90.0 ± 0.0 (+30.0) |    90.0 ± 0.0 (+10.0) | 90.0 (+20.0) |\n"
        "| adamw   |      **60.0** ± 10.0 |        **80.0** ± 0.0 |         70.0 |\n"
        "| ivon    |                    - | **80.0** ± 10.0 (0.0) |            - |\n"
        "| zebra   | **60.0** ± 0.0 (0.0) |                     - |            - |\n"
    )


def test_a_missing_seed_shows(store):
    for method in ("adamw", "ivon"):
        for seed in (1, 2):
            store.add(store.spec(method, seed=seed), {"nll": 1.0})
    shutil.rmtree(store.root / "evals" / key(store.spec("ivon", seed=2)))
    assert "| ivon | **1.000** (0.000) [1 of 2 seeds] |" in squeezed(results.TABLE.body(study(store.root)))
    assert "seeds are missing for ivon on notes" in preamble(load(store.root))


def test_an_average_tells_of_the_fewest_seeds_of_its_tasks(store):
    for method, task, seed, value in [
        ("adamw", "one", 1, 0.5), ("adamw", "one", 2, 0.5), ("adamw", "two", 1, 0.8), ("adamw", "two", 2, 0.8),
        ("ivon", "one", 1, 0.6), ("ivon", "one", 2, 0.6), ("ivon", "two", 1, 0.9),
    ]:  # fmt: skip
        store.add(store.spec(method, task, seed), {"accuracy": value})
    assert "| **75.0** (+10.0) [1 of 2 seeds] |" in squeezed(results.TABLE.body(study(store.root)))


def test_a_metric_that_a_task_lacks_has_no_average_beside_those_of_all_tasks(store):
    for task in ("one", "two", "real"):
        more = {} if task == "real" else {"excess_nll": 0.5}
        store.add(store.spec("adamw", task, 1), {"nll": 1.0, **more})
    found = {block.metric.name: block.columns for block in results.blocks(study(store.root).runs.results)}
    assert set(found["nll"]) == {"one", "two", "real", "average"} and set(found["excess_nll"]) == {"one", "two"}


def test_rows_of_as_many_but_other_seeds_are_told_of(store):
    for method, task, seeds in (("adamw", "one", (1, 2)), ("ivon", "one", (3, 4)), ("swa", "two", (1, 2))):
        for seed in seeds:
            store.add(store.spec(method, task, seed), {"nll": 1.0})
    (warning,) = (line for line in preamble(load(store.root)).splitlines() if "seeds are missing" in line)
    assert "adamw on one" in warning and "ivon on one" in warning and "swa" not in warning


def test_an_unknown_metric_is_shown_without_a_winner(store):
    store.add(store.spec("a"), {"surprise": 1.0})
    store.add(store.spec("b"), {"surprise": 2.0})
    table = squeezed(results.TABLE.body(study(store.root)))
    assert "**surprise**" in table and "| a | 1.000 |" in table and "| b | 2.000 |" in table


def test_posterior_on_a_trained_base_is_no_reference(store):
    base = store.spec("adamw").fit
    store.add(store.spec("adamw"), {"nll": 2.0}, train_seconds=10.0)
    store.add(store.spec("laplace", bases=(base,)), {"nll": 1.0}, trained=False)
    assert "| laplace | **1.000** (-1.000) |" in squeezed(results.TABLE.body(study(store.root)))
    row = next(line for line in squeezed(costs.TABLE.body(study(store.root))).splitlines() if "laplace" in line)
    # 10 s, 100 steps and 400 passes of the base; 2 s and 256 passes of its own
    assert row == (
        "| notes | laplace | 100.00 (×1.00) | 10.00 (×1.00) | 2.00 | 1.50 (×1.00) | 656 (×1.64) | 4 (×1.00) "
        "| 500 (×1.00) | 1 | Abacus (1 thread) |"
    )
    shutil.rmtree(store.root / "fits" / key(base))
    row = next(line for line in squeezed(costs.TABLE.body(study(store.root))).splitlines() if "laplace" in line)
    assert row == "| notes | laplace | - | - | - | 1.50 (×1.00) | - | 4 (×1.00) | - | 1 | Abacus (1 thread) |"


def test_costs_refuse_mixed_machines(store):
    store.add(store.spec(seed=1), {"nll": 1.0})
    store.add(store.spec(seed=2), {"nll": 1.0}, provenance={"device": "Sliderule"})
    store.add(store.spec("other"), {"nll": 1.0})
    text = squeezed(costs.TABLE.body(study(store.root)))
    assert "mixed machines: Abacus (1 thread), Sliderule (1 thread) |" in text
    rows = [line for line in text.splitlines() if "adamw" in line]
    assert rows == [
        "| notes | adamw | - | - | - | - | - | - | - | 1 | mixed machines: Abacus (1 thread), Sliderule (1 thread) |"
    ]
    assert "×" not in text  # nor is anything compared with it


def test_settings_table(store):
    store.add(store.spec("ivon", fit_options={"lr": 0.3, "ess": 1e6}, options={"tau": 1.0}), {"nll": 1.0})
    text = squeezed(settings.TABLE.body(study(store.root)))
    assert "| ivon | notes | ivon: ess=1e+06, lr=0.3 | tau=1 | 100 | 4 | r=8, alpha=16, " in text


def test_labels_name_what_differs_within_a_cell():
    flat = {"fit.options.lr": "0.1", "fit.options.ess": "10"}
    other = {**flat, "fit.options.lr": "0.2"}
    per_task = {**flat, "fit.options.ess": "99"}
    assert distinguish([("m", "t", flat), ("m", "u", per_task)]) == ["m", "m"]
    assert distinguish([("m", "t", flat), ("m", "t", other)]) == ["m (lr=0.1)", "m (lr=0.2)"]
    assert distinguish([("m", "t", flat), ("k", "t", other)]) == ["m", "k"]


@pytest.mark.parametrize(
    ("one", "other"), [(["a", "b,c"], ["a,b", "c"]), (None, "null"), (True, "true"), (["a,b"], ["a", "b"])]
)
def test_settings_that_would_print_alike_have_two_labels(one, other):
    labels = distinguish([("mine", "t", flatten(json.dumps({"words": value}))) for value in (one, other)])
    assert len(set(labels)) == 2


@pytest.mark.parametrize(("one", "other"), [(1.0, 0.9999999), (1e-4, 1.0000001e-4), (123456.0, 123456.5)])
def test_settings_that_agree_to_six_digits_have_two_labels(one, other):
    """A frozen Hessian (beta2 = 1) and one that hardly moves are two rows."""
    labels = distinguish([("ivon", "t", flatten(json.dumps({"beta2": value}))) for value in (one, other)])
    assert len(set(labels)) == 2 and [float(text[:-1].partition("=")[2]) for text in labels] == [one, other]


def test_preamble_states_facts_and_flaws(store):
    store.add(store.spec(), {"nll": 1.0}, partial=True, provenance={"dirty": True}, warnings=("too wide.",))
    store.add(store.spec("b"), {"nll": 1.0}, provenance={"dirty": None, "device": "Sliderule"})
    text = preamble(load(store.root))
    for sentence in (
        "notes (4 examples of test)",
        "Protocol: clean. Model: embedded.",
        "dirty (code of a run or fit was in no commit): adamw on notes (Protocol",
        "partial (a dataset lacked rows: not comparable with results on the whole of it): adamw on notes",
        "no-commit (code of a run or fit was outside a git checkout, so its state is not known): b on notes",
        "Machine: Abacus (1 thread), Sliderule (1 thread)",
        "several machines",
        "1 of 1 fits of adamw (variant tuned) warned, for example: too wide.",
    ):
        assert sentence in text


def test_a_warning_names_few_rows_and_counts_many(store):
    for number in range(20):
        store.add(store.spec(f"m{number:02}"), {"nll": 1.0}, partial=number > 0)
    text = preamble(load(store.root))
    assert "m12 on notes (Protocol clean, model embedded, variant tuned) and 7 more of 20 rows." in text


def test_page_preamble_and_leaderboard_have_the_same_flags(store, tmp_path):
    """A dirty fit behind a clean evaluation, and one that is not in the store."""
    for method in ("adamw", "gone"):
        store.add(store.spec(method), {"nll": 1.0})
    facts = store.root / "fits" / key(store.spec().fit) / "facts.json"
    facts.write_text(facts.read_text().replace('"dirty": false', '"dirty": true'))
    shutil.rmtree(store.root / "fits" / key(store.spec("gone").fit))
    loaded = load(store.root)
    page = page_data(study(store.root), tmp_path)
    shown = {row["method"]: page["points"][row["point"]]["flags"] for row in page["rows"]}
    rows = leaderboard.leaderboard_rows(loaded.results)
    assert shown == {row["method"]: str(row["flags"]).split() for row in rows}
    assert shown == {"adamw": ["dirty"], "gone": ["fit-missing"]}
    text = preamble(loaded)
    assert "dirty (code of a run or fit was in no commit): adamw on notes (" in text
    assert "fit-missing (a fit behind it is not in the store" in text


def test_only_the_seeds_of_fits_are_averaged_over(store):
    """Seeds of a run and its bases; a method's own option called `seed` tells rows apart."""
    for seed in (1, 2):
        base = store.spec("adamw", seed=seed).fit
        for option in (7, 8):
            spec = store.spec("odd", seed=seed, fit_options={"seed": option}, options={"seed": 0}, bases=(base,))
            store.add(spec, {"nll": float(option)})
    found = load(store.root).results
    assert [(g.name, g.seeds, g.values("nll")) for g in found] == [
        ("odd (seed=7)", (1, 2), [7.0, 7.0]), ("odd (seed=8)", (1, 2), [8.0, 8.0]),
    ]  # fmt: skip
    assert all('"options":{"seed":0}' in g.settings for g in found)


def test_tuning_shows_every_candidate_and_the_best_of_a_method(store):
    def add(method, task, seed, nll, **options):
        spec = store.spec(method, task, seed, fit_options=options, variant="tune", purpose="tune")
        store.add(spec, {"nll": nll, "brier": nll / 2, "ece": 0.1})

    store.add(store.spec(), {"nll": 9.0})  # a result is in no such table
    for task, shift in (("one", 0.0), ("two", 0.2)):
        for seed in (1, 2):
            add("adamw", task, seed, 1.0 + shift + seed / 10, lr=0.1)
            add("adamw", task, seed, 2.0 + shift + seed / 10, lr=0.2)
            add("ivon", task, seed, 3.0 + shift, lr=0.1)
    add("ivon", "one", 1, 0.5, lr=0.9)  # the other task is missing: no mean
    loaded = load(store.root)
    assert [g.name for g in loaded.results] == ["adamw"]
    lines = squeezed(tuning.TABLE.body(study(store.root))).splitlines()
    assert lines[0] == "### Protocol clean, model embedded, variant tune"
    assert lines[2].startswith("| candidate | seeds | NLL (nats), one | NLL (nats), two | mean NLL (nats) ↓ |")
    assert lines[4:] == [
        "| adamw (lr=0.1) | 2 | 1.150 | 1.350 | **1.250** | **0.625** | **10.0** |",
        "| adamw (lr=0.2) | 2 | 2.150 | 2.350 | 2.250 | 1.125 | **10.0** |",
        "| ivon (lr=0.1) | 2 | 3.000 | 3.200 | **3.100** | **1.550** | **10.0** |",
        "| ivon (lr=0.9) | 1 | 0.500 | - | - | - | - |",
    ]


def test_a_candidate_that_lacks_a_seed_of_its_method_has_no_mean(store):
    for lr, seed, nll in ((0.1, 1, 1.0), (0.1, 2, 1.0), (0.2, 1, 0.5)):  # 0.2 diverged with seed 2
        store.add(
            store.spec("adamw", "one", seed, fit_options={"lr": lr}, variant="tune", purpose="tune"), {"nll": nll}
        )
    store.add(store.spec(), {"nll": 9.0})
    lines = squeezed(tuning.TABLE.body(study(store.root))).splitlines()
    assert lines[4:] == [
        "| adamw (lr=0.1) | 2 | 1.000 | **1.000** | - | - |",
        "| adamw (lr=0.2) | 1 | 0.500 | - | - | - |",
    ]


def test_a_store_without_tuning_has_no_such_section(store, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "FIGURES", {})
    store.add(store.spec())
    report.write_report(store.root, tmp_path / "report")
    assert "## Tuning" not in (tmp_path / "report" / "tables.md").read_text()
    store.add(store.spec(variant="tune", purpose="tune"))
    report.write_report(store.root, tmp_path / "report")
    assert "## Tuning\n\nWhat `bench tune` tried" in (tmp_path / "report" / "tables.md").read_text()
