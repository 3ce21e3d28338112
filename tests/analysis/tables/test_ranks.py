"""Ranks, Friedman's test and Nemenyi's critical difference, against the literature and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.figures import ranks as figure_ranks
from analysis.statistics.ranks import _critical, rankings
from analysis.statistics.study import study
from analysis.tables import ranks
from analysis.tables.formats.text import csv_text


@pytest.mark.parametrize(("methods", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_critical_difference_is_that_of_demsar(methods, q):
    """Demsar 2006, table 5a: q at 0.05; section 3.2.2 has CD 1.25 for 4 methods on 14 datasets."""
    assert _critical(14, methods) == pytest.approx(q * (methods * (methods + 1) / 84) ** 0.5, abs=1e-3)
    assert _critical(14, 4) == pytest.approx(1.25, abs=5e-3)


VALUES = {"adamw": (0.70, 0.60, 0.50), "ivon": (0.90, 0.60, 0.80), "swag": (0.80, 0.90, 0.70)}


def fill(store, values=VALUES, **options):
    for method, row in values.items():
        for task, value in zip(("one", "three", "two"), row, strict=False):
            for seed in (1, 2):
                shift = 0.01 * (2 * seed - 3)
                store.add(store.spec(method, task, seed), {"accuracy": value + shift, "nll": 1 - value}, **options)


def test_ranks_by_hand(store):
    fill(store)
    (accuracy, nll), notes = rankings(study(store.root))
    assert notes == [] and accuracy.tasks == ("one", "three", "two") and accuracy.methods == ("adamw", "swag", "ivon")
    assert accuracy.ranks.tolist() == [[3, 2, 1], [2.5, 1, 2.5], [3, 2, 1]]  # a tie shares its rank
    assert accuracy.means == {"ivon": 1.5, "swag": pytest.approx(5 / 3), "adamw": pytest.approx(8.5 / 3)}
    expected = stats.friedmanchisquare(*np.array(list(VALUES.values())))
    assert (accuracy.friedman, accuracy.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert nll.ranks.tolist() == accuracy.ranks.tolist()  # lower is better
    assert accuracy.cliques == [("ivon", "swag", "adamw")]
    text = ranks.ranks(study(store.root), [accuracy])
    assert "| ivon   |   1 |   2.5 |   1 |      1.50 |" in text and "Friedman's test: χ² = " in text
    rows = csv_text(ranks.COLUMNS, ranks._rows(study(store.root), [accuracy])).splitlines()
    assert len(rows) == 1 + 3 * 4 and "clean,embedded,tuned,accuracy,ivon,mean,1.500000,3,3," in rows[-1]


def test_cliques_are_the_largest_that_do_not_differ(store):
    """Fixed values: the first and the last differ, neighbours do not."""
    many = {f"m{place}": [place + shift for shift in (0.0, 0.1, 0.2)] for place in range(9)}
    fill(store, {name: [v / 20 for v in row] for name, row in many.items()})
    (accuracy, _), _ = rankings(study(store.root))
    assert accuracy.critical == pytest.approx(stats.studentized_range.isf(0.05, 9, np.inf) / 2**0.5 * 5**0.5)
    assert accuracy.cliques == [tuple(f"m{p}" for p in range(8, 1, -1)), tuple(f"m{p}" for p in range(7, 0, -1)),
                                tuple(f"m{p}" for p in range(6, -1, -1))]  # fmt: skip


def test_gaps_flags_and_references_are_not_ranked(store):
    fill(store)
    fill(store, {"optimum": (1.0, 1.0, 1.0)}, trained=False)
    fill(store, {"dusty": (1.0, 1.0, 1.0)}, provenance={"dirty": True})
    fill(store, {"short": (1.0, 1.0)})
    found, notes = rankings(study(store.root))
    assert found[0].methods == ("adamw", "swag", "ivon")
    title = "Protocol clean, model embedded, variant tuned"
    assert notes == [
        f"Not ranked ({title}): dusty is flagged dirty.", f"Not ranked ({title}): short has no run on two."
    ]  # fmt: skip


def test_too_little_for_tests_is_a_gap(store):
    fill(store, {"adamw": (0.7,), "ivon": (0.8,), "swag": (0.9,)})
    found, _ = rankings(study(store.root))
    assert {(r.friedman, r.p, r.critical) for r in found} == {(None, None, None)}
    assert "Friedman's test: -" in ranks.ranks(study(store.root), found)
    only = study(store.root)
    drawn, notes = figure_ranks.draw(only, only.sections[0])
    assert drawn == [] and "it needs two tasks and three methods" in notes[-1]


def test_the_diagram_shows_every_method_once(store):
    fill(store)
    only = study(store.root)
    ((drawn,), notes) = figure_ranks.draw(only, only.sections[0])
    assert notes == [] and drawn.name == "ranks-clean-embedded-tuned" and "3 tasks (one, three, two)" in drawn.caption
    for axes in drawn.figure.axes[:2]:
        labels = [text.get_text() for text in axes.texts]
        assert [sum(name in label for label in labels) for name in ("AdamW", "SWAG")] == [1, 1]
        assert "IVON  1.50" in labels and any(label.startswith("CD ") for label in labels)
