"""What tables call a base model."""

from __future__ import annotations

from analysis.records.load import load
from analysis.tables.leaderboard import leaderboard_rows
from bench.specs import ModelSpec

METRICS = {"nll": 0.5}


def test_a_local_base_is_called_by_its_name_and_two_of_one_name_are_told_apart(store):
    named = [("a1", "my_llama"), ("b2", "my_llama"), ("c3", "other"), ("d4", "")]
    for digits, name in named:
        spec = store.spec(model=ModelSpec(id=f"local:{digits * 8}", quantization="nf4" if name == "other" else "none"))
        store.add(spec, METRICS, provenance={"base": name})
    store.add(store.spec(model=ModelSpec(id="other", revision="r")), METRICS)
    found = load(store.root)
    names = {"my_llama (a1a1a1a1)", "my_llama (b2b2b2b2)", "other (c3c3c3c3) nf4", "local:d4d4d4d4d4d4d4d4", "other"}
    assert {section.model for section in found.sections} == names
    assert {row["model"] for row in leaderboard_rows(found.results)} == names


def test_the_newest_record_names_a_base(store):
    model = ModelSpec(id=f"local:{'a1' * 8}")
    for seed, (time, name) in enumerate((("2026-01-03", "new"), ("2026-01-02", "old"), ("2026-01-04", ""))):
        store.add(store.spec(seed=seed, model=model), METRICS, provenance={"base": name, "time": f"{time}T00:00:00"})
    (only,) = load(store.root).results
    assert only.model == "new" and len(only.records) == 3
