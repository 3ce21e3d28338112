"""What is trained on, tuned on and scored is disjoint, for every method that tunes, protocol and share."""

from __future__ import annotations

import itertools

import pytest
from support import plan

from bench.data.protocol import HOLDOUT, PROTOCOLS, splits_for
from bench.data.splits import DataSource
from bench.method import get_method, method_names
from bench.run.examples import Data
from bench.specs import FitSpec
from bench.task import get_task

DATA = Data(DataSource())
TASKS = ("notes_two", "colours")  # with and without a test split


def chain(fit: FitSpec) -> list[FitSpec]:
    """A fit and all that it starts from."""
    return [fit, *itertools.chain.from_iterable(map(chain, fit.bases))]


@pytest.mark.parametrize("share", [0.0, 0.25])
@pytest.mark.parametrize("protocol", list(PROTOCOLS))
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", method_names())
def test_trained_tuned_and_scored_are_disjoint(method: str, task: str, protocol: str, share: float) -> None:
    try:
        run = plan(method, task, protocol=protocol, tune_share=share)
    except ValueError as error:
        pytest.skip(str(error))
    fits = chain(run.fit)
    trained = {example.id for fit in fits for example in DATA.trained(fit)}
    tuned = [{e.id for e in DATA.tuning(fit, protocol)} for fit in fits if get_method(fit.method).tunes]
    scored = {example.id for example in DATA.scored(run)[0]}
    for one, other in itertools.combinations([trained, scored, *tuned], 2):
        assert not one & other
    assert trained and scored and all(tuned)
    reported = {e.id for e in DATA.split(run.data, splits_for(protocol, get_task(task)).reported).examples}
    assert not reported & trained.union(*tuned), "nothing is tuned on the split that is reported"


@pytest.mark.parametrize(
    ("task", "protocol", "share", "watched"),
    [
        ("notes_two", "paper", 0.0, "validation"),  # the reported split, as in the paper's Figure 2
        ("notes_two", "clean", 0.0, "validation"),  # left for tuning; test is reported
        ("notes_two", "paper", 0.25, HOLDOUT),
        ("colours", "clean", 0.0, HOLDOUT),
        ("colours", "paper", 0.0, "validation"),
    ],
)
def test_mid_run_evaluation_watches_what_the_protocol_allows(
    task: str, protocol: str, share: float, watched: str
) -> None:
    fit = plan("adamw", task, protocol=protocol, tune_share=share).fit
    found = {example.id for example in DATA.watched(fit, protocol)}
    if watched == HOLDOUT:
        whole = {example.id for example in DATA.split(fit.data, "train").examples}
        assert found == whole - {example.id for example in DATA.trained(fit)}
    else:
        assert found == {example.id for example in DATA.split(fit.data, watched).examples}
