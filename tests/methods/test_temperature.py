"""Temperature scaling: the optimum against a grid search, and the data it is fitted on."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support import compute, plan
from torch.nn.functional import cross_entropy
from toy import Linear

from bench.data.protocol import splits_for
from bench.data.splits import DataSource, load_split, split_holdout
from bench.method import get_method
from bench.model.choice_model import load_model
from bench.plan.runs import count_fits
from bench.run.runner import Runner
from bench.specs import seed_for
from bench.store.store import Store
from bench.task import get_task
from methods.temperature import LARGEST, ScaledPoint, best_temperature, no_minimum


def grid_search(logits: torch.Tensor, labels: torch.Tensor) -> float:
    grid = torch.logspace(math.log10(1 / LARGEST), math.log10(LARGEST), 4001, dtype=torch.float64).tolist()
    losses = torch.stack([cross_entropy(logits.double() / t, labels) for t in grid])
    return grid[int(losses.argmin())]


@pytest.mark.parametrize(("scale", "choices"), [(0.2, 2), (1.0, 4), (3.0, 4), (8.0, 3)])
def test_is_the_minimum_that_a_grid_search_finds(scale: float, choices: int) -> None:
    generator = torch.Generator().manual_seed(choices)
    true = torch.randn(300, choices, generator=generator)
    labels = torch.multinomial(true.softmax(-1), 1, generator=generator).squeeze(1)
    found = best_temperature(true * scale, labels)
    assert found == pytest.approx(grid_search(true * scale, labels), rel=2e-3)
    assert found == pytest.approx(scale, rel=0.5)  # logits that are `scale` times too large


@pytest.mark.parametrize(("sign", "end"), [(1, 1 / LARGEST), (-1, LARGEST)])
def test_stops_at_the_end_of_its_range_when_there_is_no_optimum(sign: int, end: float) -> None:
    logits = sign * torch.tensor([[0.1, 0.0], [0.0, 0.2]])
    assert best_temperature(logits, torch.tensor([0, 1])) == pytest.approx(end, rel=1e-3)


@pytest.mark.parametrize(
    ("margins", "said"),
    [
        ([0.2, 0.1, 3.0], "answer all 3 tuning examples correctly"),
        ([800.0, 900.0, 700.0], "answer all 3 tuning examples correctly"),  # NLL 0 to the last bit: a plateau
        ([-0.2, -0.1, -3.0], "no better than chance"),
        ([0.2, -0.1, 3.0], ""),
    ],
)
def test_a_temperature_without_a_minimum_is_named(margins: list[float], said: str) -> None:
    logits = torch.tensor([[margin, 0.0] for margin in margins])
    labels = torch.zeros(len(margins), dtype=torch.long)
    problem = no_minimum(best_temperature(logits, labels), logits, labels)
    assert said in problem and bool(problem) == bool(said)


def test_the_stored_one_is_the_optimum_on_the_tuning_examples_and_divides_the_logits(tmp_path: Path) -> None:
    settings = {"adamw": {"lr": 3e-2}, "steps": 40}
    run, plain = (plan(method, "notes_four", protocol="clean", **settings) for method in ("temperature", "adamw"))
    store = compute(run, tmp_path)
    posterior = store.posterior(run.fit)
    assert isinstance(posterior, ScaledPoint)
    model = load_model(run.fit.model, None, torch.device("cpu"))
    model.prepare(get_task("notes_four").answers, 0)
    encoded = model.encode(load_split(get_task("notes_four"), "validation", DataSource()).examples, 320)
    with model.assign(posterior.mean), torch.no_grad():
        batch = encoded.batch(range(len(encoded)))
        logits = model.logits(batch)
    assert posterior.temperature == pytest.approx(grid_search(logits, batch.labels), rel=2e-3)
    assert abs(posterior.temperature - 1) > 0.02
    scaled = store.predictions(run)["log_probs"].astype(np.float64)
    other = compute(plain, tmp_path).predictions(plain)["log_probs"].astype(np.float64) / posterior.temperature
    expected = other - np.log(np.exp(other).sum(-1, keepdims=True))
    np.testing.assert_allclose(scaled, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("task", "protocol", "share", "own", "base", "count"),
    [
        ("notes_two", "clean", 0.0, 0.0, 0.0, 256),  # validation is left for tuning
        ("notes_two", "clean", 0.25, 0.25, 0.25, 256),
        ("notes_two", "paper", 0.0, 0.0, 0.1, 26),  # a tenth of train, unseen by an AdamW fit of its own
        ("notes_two", "paper", 0.25, 0.25, 0.35, 26),
        ("colours", "clean", 0.0, 0.0, 0.1, 4),  # no test split: the part of train that the protocol sets aside
        ("colours", "clean", 0.25, 0.25, 0.35, 4),
    ],
)
def test_is_fitted_on_what_is_neither_trained_on_nor_scored(
    tmp_path: Path, task: str, protocol: str, share: float, own: float, base: float, count: int
) -> None:
    run = plan("temperature", task, protocol=protocol, tune_share=share)
    fit = run.fit
    assert (fit.holdout, fit.bases[0].holdout) == (own, base)
    runner = Runner(store=Store(tmp_path))
    tuned = {example.id for example in runner.data.tuning(fit, protocol)}
    train = load_split(get_task(task), "train", DataSource()).examples
    trained, _ = split_holdout(train, base, seed_for(fit.bases[0], "holdout"))
    scored, _ = runner.data.scored(run)
    assert len(tuned) == count
    assert not tuned & {example.id for example in trained}
    assert not tuned & {example.id for example in scored}
    reported = load_split(get_task(task), splits_for(protocol, get_task(task)).reported, DataSource()).examples
    assert not tuned & {example.id for example in reported}


def test_shares_the_familys_training_where_the_protocol_leaves_data_and_pays_for_one_where_not() -> None:
    for task, protocol, fits in (("notes_two", "clean", 1), ("colours", "clean", 1), ("notes_two", "paper", 2)):
        runs = [plan(method, task, protocol=protocol) for method in ("adamw", "temperature")]
        assert count_fits(runs) == {"adamw": fits, "temperature": 1}


def test_what_leaves_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holdout"):
        compute(plan("temperature", protocol="paper", tune_share=0.95), tmp_path)


def test_a_method_that_does_not_say_that_it_tunes_gets_nothing_to_tune_on(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="set `tunes = True`"):
        _ = Linear(10, 2, white=False, prior_sd=1).job(tmp_path).tuning


def test_a_method_that_tunes_needs_a_fit_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_method("mc_dropout"), "tunes", True)
    with pytest.raises(TypeError, match=r"'mc_dropout' tunes: define fit\(job\), which reads job\.tuning"):
        plan("mc_dropout")
