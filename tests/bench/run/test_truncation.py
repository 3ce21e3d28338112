"""Prompts that do not fit are counted for scored, training and tuning examples, told before the work, and stored."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from support import plan

from bench.plan.runs import families
from bench.run.runner import Runner
from bench.store.store import Store


class Said(logging.Handler):
    """Keeps the log's texts."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def facts(folder: Path, method: str, **settings: Any) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """(facts of the fit, facts of the evaluation, what was said)."""
    run, said, store = plan(method, **settings), Said(), Store(folder)
    logging.getLogger("bench").addHandler(said)
    try:
        Runner(store=store).run(families([run])[0])
    finally:
        logging.getLogger("bench").removeHandler(said)
    return dict(store.fit_facts(run.fit)), dict(store.record(run).facts), said.texts


@pytest.mark.parametrize(("task", "cue_lost"), [("notes_two", 256), ("notes_bool", 0)])  # BoolQ's form has no cue
def test_cut_prompts_are_counted_in_both_facts_and_told(tmp_path: Path, task: str, cue_lost: int) -> None:
    fit, run, said = facts(tmp_path, "adamw", task=task, max_length=8)
    for examples in (fit["examples"], run["examples"], run["fit"]["examples"]):
        assert (examples["truncated"], examples["cue_lost"]) == (256, cue_lost)
    told = [sentence for sentence in said if "max_length=8" in sentence]
    assert [sentence.startswith(f"adamw on {task}, seed 1: 256 of 256 ") for sentence in told] == [True, True]
    assert {sentence.split(" prompts")[0].rsplit(" ", 1)[1] for sentence in told} == {"scored", "training"}
    assert sum("256 of 256 training prompts" in warning for warning in fit["warnings"]) == 1


def test_a_borrowed_fit_still_has_its_scored_prompts_counted(tmp_path: Path) -> None:
    facts(tmp_path, "adamw", max_length=8)
    fit, run, said = facts(tmp_path, "mc_dropout", max_length=8)
    assert run["examples"]["truncated"] == run["fit"]["examples"]["truncated"] == fit["examples"]["truncated"] == 256
    assert ["scored" in sentence for sentence in said] == [True]


def test_cut_tuning_prompts_are_told(tmp_path: Path) -> None:
    fit, _, said = facts(tmp_path, "temperature", max_length=8, protocol="clean")
    assert any("tuning prompts are longer than max_length=8" in sentence for sentence in said)
    assert any("tuning prompts" in warning for warning in fit["warnings"])


@pytest.mark.parametrize(("method", "max_length"), [("zero_shot", 320), ("bayes_optimal", 8)])
def test_prompts_that_fit_or_are_not_read_lose_nothing_and_nothing_is_said(
    tmp_path: Path, method: str, max_length: int
) -> None:
    fit, run, said = facts(tmp_path, method, max_length=max_length)
    assert all((e["truncated"], e["cue_lost"]) == (0, 0) for e in (fit["examples"], run["examples"]))
    assert not said
