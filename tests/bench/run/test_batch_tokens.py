"""Batches by tokens at prediction: another key, the same predictions up to rounding, the same bytes each time."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from bench.data.batches import Encoded
from bench.plan.grid import read_grid
from bench.specs import key
from bench.store.predictions import read_predictions
from tests.support import compute, plan_few, result_bytes


@pytest.mark.parametrize("method", ["ivon", "la_kfac"])
def test_predictions_by_tokens_are_those_by_examples(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_examples = plan_few(method, ivon={"draws": 3})
    by_tokens = dataclasses.replace(by_examples, batch_tokens=200)  # 5 prompts of 48, and 3 at the end
    store = compute(by_examples, tmp_path / "one")
    sizes, plain = [], Encoded._padded
    monkeypatch.setattr(Encoded, "_padded", lambda self, rows: sizes.append(len(rows)) or plain(self, rows))
    compute(by_tokens, store.root)
    assert len(set(sizes)) > 1 and max(sizes) < 32, "the budget changed no batch"
    assert key(by_tokens.fit) == key(by_examples.fit) and key(by_tokens) != key(by_examples)
    one, other = (
        read_predictions(store.folder(run) / "predictions.safetensors")["log_probs"] for run in (by_examples, by_tokens)
    )
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)
    assert result_bytes(compute(by_tokens, tmp_path / "two"), by_tokens) == result_bytes(store, by_tokens)


def test_a_grid_sets_the_budget_of_all_its_evaluations(tmp_path: Path) -> None:
    file = tmp_path / "g.toml"
    lines = 'methods = ["adamw", "ivon"]\ntasks = ["notes_two"]\nseeds = [1]\n'
    file.write_text(lines)
    plain = read_grid(file).runs()
    file.write_text(lines + "batch_tokens = 512\n")
    runs = read_grid(file).runs()
    assert {run.batch_tokens for run in runs} == {512}
    assert [dataclasses.replace(run, batch_tokens=0) for run in runs] == list(plain)
