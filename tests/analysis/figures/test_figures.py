"""What the figures show, against hand computation; and that with many methods and tasks nothing is cut or empty."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from analysis.figures import clock as figure_clock
from analysis.figures import cost as figure_cost
from analysis.figures import draws as figure_draws
from analysis.figures import overhead as figure_overhead
from analysis.figures import rank_map as figure_rank_map
from analysis.figures import style
from analysis.figures import tradeoff as figure_tradeoff
from analysis.figures.panels import Drawn
from analysis.records.load import load
from analysis.records.predictions import Predictions
from analysis.report import FIGURES
from analysis.statistics.measured import BY_DRAWS
from analysis.statistics.metric import metric_of
from analysis.statistics.ranks import rankings
from analysis.statistics.reliability import pooled, reliability
from analysis.statistics.study import Study, study
from bench.metrics import METRICS, mixture

LABELS = np.array([0, 1] * 20)


def draw(module: Any, whole: Study) -> tuple[list[Drawn], list[str]]:
    """The figures and notes of a store with one section."""
    (section,) = whole.sections
    return module.draw(whole, section)


def predicted(seed: int, sharpness: float, draws: int = 1) -> Any:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(draws, 40, 2)) + sharpness * np.eye(2)[LABELS]
    return (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))).astype(np.float32)


def test_the_last_point_of_the_draws_is_the_stored_metric_and_the_first_is_one_draw(store):
    rows = predicted(1, 1.0, draws=6)
    store.add(store.spec("sampler"), log_probs=rows, labels=LABELS)
    store.add(store.spec("point"), log_probs=rows[:1], labels=LABELS)
    loaded = load(store.root)
    sampler, point = (next(g for g in loaded.results if g.name == name) for name in ("sampler", "point"))
    chosen = study(store.root, "point")
    run = chosen.measured[sampler.records[0].key].by_draws
    assert list(run) == [1, 2, 3, 4, 5, 6]
    for name in BY_DRAWS:
        assert run[6][name] == pytest.approx(sampler.records[0].metrics[name], abs=1e-12)
        assert run[1][name] == pytest.approx(point.records[0].metrics[name], abs=1e-12)
        assert run[3][name] == pytest.approx(METRICS[name](mixture(rows[:3]), LABELS), abs=1e-12)
    ((drawn,), notes) = draw(figure_draws, chosen)
    assert notes == []
    line = next(line for line in drawn.figure.axes[1].lines if line.get_label() == "sampler")
    assert line.get_ydata() == pytest.approx([scores["nll"] for scores in run.values()])


def test_gaps_of_the_reliability_bins_add_up_to_the_ece():
    logs = mixture(predicted(3, 2.0))
    logs[0] = np.log([1.0, 1e-300])  # confidence 1.0 falls in the last bin
    bins = reliability(Predictions(logs, LABELS, ()))
    some = bins.counts > 0
    gaps = bins.counts[some] * np.abs(bins.accuracy[some] - bins.confidence[some])
    assert gaps.sum() / len(LABELS) == pytest.approx(METRICS["ece"](logs, LABELS), abs=1e-12)
    assert bins.counts.sum() == 40 and np.isnan(bins.accuracy[~some]).all()
    twice = pooled([bins, bins])
    assert (twice.counts == 2 * bins.counts).all() and twice.accuracy[some] == pytest.approx(bins.accuracy[some])


def test_pareto_front():
    points = [(0.5, 0.1), (0.7, 0.2), (0.6, 0.3), (0.7, 0.2), (0.8, 0.25), (0.8, 0.4)]
    assert figure_tradeoff.pareto(points, (1, -1)) == [0, 1, 3, 4]  # equal points share their place
    assert figure_tradeoff.pareto(points, (-1, 1)) == [0, 2, 5]


def test_ranks_share_ties_and_leave_gaps(store):
    for task, values in {"one": {"a": 0.9, "b": 0.5, "c": 0.5}, "two": {"a": 0.1, "b": 0.2}}.items():
        for method, value in values.items():
            store.add(store.spec(method, task), {"accuracy": value, "ece": value, "nll": value})
    groups = load(store.root).results
    assert figure_rank_map.ranks(groups, metric_of("accuracy")) == {
        "one": {"a": 1.0, "b": 2.5, "c": 2.5},
        "two": {"a": 2.0, "b": 1.0},
    }
    ((drawn,), _) = draw(figure_rank_map, study(store.root, "a"))
    image = np.ma.filled(drawn.figure.axes[0].images[0].get_array().astype(float), np.nan)
    assert np.array_equal(image, [[1, 2, 1.5], [2.5, 1, 1.75], [2.5, np.nan, np.nan]], equal_nan=True)
    texts = [text.get_text() for text in drawn.figure.axes[0].texts]
    assert texts == ["1", "2", "1.5", "2.5", "1", "1.8", "2.5"]


def test_the_map_has_the_ranks_of_the_table(store):
    """As displayed, and of runs scored on the task that they were trained on."""
    for task in ("one", "two"):
        for method, value in {"a": 0.70001, "b": 0.70002, "c": 0.5}.items():
            store.add(store.spec(method, task), {"accuracy": value, "ece": value, "nll": value})
            store.add(store.spec(method, task, eval_task="far"), {"accuracy": 1 - value})
    found = study(store.root, "a")
    groups = [group for group in found.runs.results if not group.away]
    (table,) = [one for one in rankings(found)[0] if one.metric.name == "accuracy"]
    ranks = figure_rank_map.ranks(groups, metric_of("accuracy"))
    assert [list(ranks[task].values()) for task in table.tasks] == table.ranks.tolist() == [[1.5, 1.5, 3.0]] * 2
    ((drawn,), _) = draw(figure_rank_map, found)
    assert [label.get_text() for label in drawn.figure.axes[0].get_xticklabels()] == ["one", "two", "mean"]


def test_costs_add_up_and_steps_are_relative_to_the_baseline(store):
    base = store.spec("adamw")
    store.add(base, train_seconds=10.0)  # 100 steps, 1.5 s of prediction
    store.add(store.spec("slow"), train_seconds=15.0)
    store.add(store.spec("laplace", bases=(base.fit,)), trained=False)  # 2 s of posterior on the base's training
    loaded = load(store.root)
    machines, whole = set[str](), study(store.root)
    seconds = {g.name: figure_cost.seconds_of(whole, g, machines).mean for g in loaded.results}
    assert seconds == pytest.approx({"adamw": 11.5, "slow": 16.5, "laplace": 13.5})
    assert machines == {"Abacus (1 thread)"}
    costs, bases, _ = figure_overhead.step_costs(whole, loaded.sections[0])
    assert costs == {"adamw": {"notes": pytest.approx(100)}, "slow": {"notes": pytest.approx(150)}}
    assert bases == {"notes": {"adamw"}}
    ratios = figure_overhead.relative(costs, {"notes": "adamw"})
    assert ratios == {"adamw": {"notes": 1}, "slow": {"notes": pytest.approx(1.5)}}


def test_a_base_that_leaves_examples_for_tuning_is_another_training(store):
    """As for `temperature` under the protocol `paper`: its own fit of the baseline's method, with a hold-out."""
    trace = tuple({"step": s, "seconds": s / 9, "accuracy": s / 99, "nll": 1.0 - s / 200} for s in (0, 50))
    base = store.spec("adamw")
    for task in ("notes", "plain"):
        store.add(store.spec("adamw", task), trace=trace)
    held = dataclasses.replace(base.fit, holdout=0.1)
    for spec in (base, dataclasses.replace(base, fit=held)):  # the latter writes the fit, its run is not a result
        store.add(
            dataclasses.replace(spec, purpose="tune"), trace=trace, train_seconds=9.0 if spec.fit is held else 10.0
        )
    store.add(store.spec("scaled", bases=(held,)), trained=False)
    ((drawn,), notes) = draw(figure_overhead, study(store.root))
    assert notes == []
    labels = [text.get_text() for text in drawn.figure.axes[0].get_yticklabels()]
    assert labels == ["AdamW (holdout=0)", "AdamW (holdout=0.1)"]
    assert {text.get_text() for text in drawn.figure.axes[0].texts} == {"1.00×  (100 ms)", "0.90×  (90 ms)"}
    ((drawn,), notes) = draw(figure_clock, study(store.root))
    assert len(notes) == 1 and "adamw on notes with a hold-out of 0.1" in notes[0]
    assert [line.get_label() for line in drawn.figure.axes[0].lines] == ["AdamW"]
    assert "on validation data, at the mean" in drawn.caption


def test_the_clock_names_what_each_task_was_evaluated_on(store):
    trace = tuple({"step": s, "seconds": s / 9, "accuracy": s / 99, "nll": 1.0 - s / 200} for s in (0, 50))
    for task, share in (("one", 0.0), ("two", 0.1)):
        spec = store.spec("adamw", task)
        store.add(dataclasses.replace(spec, fit=dataclasses.replace(spec.fit, holdout=share)), trace=trace)
    ((drawn,), notes) = draw(figure_clock, study(store.root))
    assert notes == [] and "on validation data (one) and held-out training data (two), at" in drawn.caption


def test_several_trainings_of_the_baseline_are_no_yardstick(store):
    for lr in (1e-4, 1e-3):
        store.add(store.spec("adamw", fit_options={"lr": lr}))
    drawn, notes = draw(figure_overhead, study(store.root))
    assert drawn == [] and "several trainings on notes" in notes[0]


def test_seconds_of_unlike_machines_are_not_drawn(store):
    store.add(store.spec("adamw"))
    store.add(store.spec("slow"), provenance={"device": "Sliderule"})
    for module in (figure_cost, figure_overhead):
        drawn, notes = draw(module, study(store.root))
        assert drawn == [] and "mixes machines" in notes[0]


def test_a_missing_base_is_named_and_not_guessed(store):
    store.add(store.spec("laplace", bases=(store.spec("adamw").fit,)), trained=False)
    drawn, notes = draw(figure_cost, study(store.root))
    assert drawn == [] and "laplace on notes" in notes[0]


@pytest.mark.slow
def test_with_many_methods_no_text_is_cut_and_no_panel_is_empty(store):
    for task in ("a_task", "another_task", "one_task_more", "the_last_one"):
        for number in range(16):
            method = f"a_method_with_a_name_{number}"
            for tau in (0.0, 1.0) if number % 2 else (1.0,):
                trace = tuple({"step": s, "seconds": s / 9, "accuracy": s / 99, "nll": 1.0 - s / 200} for s in (0, 50))
                options = {"tau": tau} if number % 2 else {"temperature": 0.5}
                spec = store.spec(method, task, options=options, purpose="result" if tau else "sweep")
                store.add(spec, log_probs=predicted(number, 1.0, 4), labels=LABELS, trace=trace)
    many = study(store.root, "a_method_with_a_name_0")
    for draw_kind in FIGURES.values():
        drawn, _ = draw_kind(many, many.sections[0])
        assert drawn
        for figure in (item.figure for item in drawn[:1]):
            assert figure.get_figheight() <= 10 and figure.get_figwidth() <= style.PAGE
            with style.styled():
                figure.draw_without_rendering()
            whole = figure.bbox.padded(2)
            for axes in figure.axes:
                assert axes.has_data()
                low, high = sorted(axes.get_xlim())
                ticks = [text for text in axes.get_xticklabels() if low <= text.get_position()[0] <= high]
                labels = [axes.title, axes.xaxis.label, axes.yaxis.label, *ticks, *axes.get_yticklabels(), *axes.texts]
                for text in filter(lambda text: text.get_visible() and text.get_text(), labels):
                    box = text.get_window_extent()
                    assert whole.x0 <= box.x0 and box.x1 <= whole.x1, text
            title = figure._suptitle.get_window_extent()
            assert whole.x0 <= title.x0 and title.x1 <= whole.x1 and title.y1 <= whole.y1
            for legend in figure.legends:
                box = legend.get_window_extent()
                assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0
            boxes = [axes.get_window_extent() for axes in figure.axes]
            assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[n + 1 :])
