"""What becomes of one variant's differences in another, on a store where each outcome is planted."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from analysis.statistics.study import study
from analysis.statistics.variants import contrasts, outcomes
from analysis.tables import results as result_tables
from analysis.tables.variants import TABLE, read_outcomes, sentences

SEEDS = (1, 2, 3, 4, 5)
N = 200
SHARPNESS = {  # by variant: AdamW's is 1; the sharper, the better
    "long": {"kept": 3.0, "lost": 3.0, "turned": 3.0, "same": 1.0, "alone": 3.0},
    "tuned": {"kept": 3.0, "lost": 1.0, "turned": 0.0, "same": 1.0},
}


def predicted(sharpness: float, seed: int) -> np.ndarray:
    """(1, N, 2) log-probabilities; answer 0 is always right."""
    generator = np.random.default_rng(seed)
    logits = np.stack([sharpness + 0.1 * generator.normal(size=N), np.zeros(N)], axis=-1)
    return (logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)).astype(np.float32)[None]


@pytest.fixture
def planted(store):
    for variant, methods in SHARPNESS.items():
        for seed in SEEDS:
            for place, (method, sharpness) in enumerate({"adamw": 1.0, **methods}.items()):
                log_probs = predicted(sharpness, 100 * seed + place)
                store.add(store.spec(method, seed=seed, variant=variant), log_probs=log_probs, labels=np.zeros(N, int))
    return study(store.root, main="long")


def test_each_planted_outcome_is_found(planted) -> None:
    found, _ = outcomes(planted)
    assert [(one.section.variant, one.seeds) for one in found] == [("long", (5,)), ("tuned", (5,))]
    (pair,) = contrasts(found)
    nll = {
        kind: {one.place.method for one in getattr(pair, kind) if one.place.metric == "nll"}
        for kind in ("kept", "reversed", "lost", "gained")
    }
    assert nll == {"kept": {"kept"}, "reversed": {"turned"}, "lost": {"lost"}, "gained": set()}
    assert {one.place.method for one in found[0].shown} == {"kept", "lost", "turned", "alone"}


def test_the_sentences_count_what_both_compare(planted) -> None:
    said = sentences(outcomes(planted)[0])
    assert said[0].startswith("long (5 seeds): ") and " of 20 comparisons" in said[0]
    pair = contrasts(outcomes(planted)[0])[0]
    total = len(pair.kept) + len(pair.lost) + len(pair.reversed)
    assert said[2].startswith(f"Of the {total} differences that long shows among the 16 comparisons")
    assert (
        f"tuned shows {len(pair.kept)}, reverses {len(pair.reversed)} and shows nothing for {len(pair.lost)}" in said[2]
    )
    (gone,) = (line for line in said if line.startswith("Not in tuned: "))
    assert "NLL (nats) better for lost (notes)" in gone
    assert not any("alone" in line for line in said)


def test_the_table_stands_the_variants_side_by_side(planted) -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.body(planted).splitlines()]
    assert ["method", "metric", "long (5 seeds)", "tuned (5 seeds)"] in rows
    cells = {row[0]: row[2:] for row in rows if len(row) == 4 and row[1].startswith("NLL")}
    assert cells["alone"][1] == "-" and cells["lost"][1] == "none shown" and "same" not in cells
    assert cells["turned"][0].startswith("▲ notes -") and cells["turned"][1].startswith("▼ notes +")


def test_one_variant_is_listed_without_a_contrast(store) -> None:
    for method in ("adamw", "ivon"):
        store.add(store.spec(method, variant=""))
    found, _ = outcomes(study(store.root))
    assert contrasts(found) == [] and len(sentences(found)) == 1
    assert sentences(found)[0].startswith("no variant (1 seed): 0 of 4 comparisons")


def test_the_file_tells_the_same(planted) -> None:
    rows = csv.DictReader(io.StringIO(TABLE.csv_text(planted)))
    assert sentences(read_outcomes(list(rows))) == sentences(outcomes(planted)[0])


def test_the_results_bear_the_marks_of_every_variant(planted) -> None:
    rows = [line for line in result_tables.TABLE.body(planted).splitlines() if line.startswith("| turned")]
    by_variant = [["▲" in row, "▼" in row] for row in rows]
    assert len(rows) == 8 and [True, False] in by_variant[:4] and [False, True] in by_variant[4:]


def test_a_difference_of_one_seed_is_shown_by_no_variant(store) -> None:
    for variant, seeds in (("long", SEEDS), ("tuned", (1,))):
        for seed in seeds:
            for place, sharpness in enumerate((1.0, 3.0)):
                spec = store.spec(("adamw", "ivon")[place], seed=seed, variant=variant)
                store.add(spec, log_probs=predicted(sharpness, 100 * seed + place), labels=np.zeros(N, int))
    found, _ = outcomes(study(store.root, main="long"))
    assert found[0].shown and not found[1].shown
    (pair,) = contrasts(found)
    assert pair.lost and not pair.kept and not pair.gained
    assert sentences(found)[1].startswith("tuned (1 seed): 0 of ")
