"""Ensembles: independent members, one hold-out, averages of probabilities, and what they cost."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support import compute
from support import plan_few as plan

from analysis.records.load import load
from bench.metrics import score
from bench.plan.runs import count_fits, families
from bench.posterior import LowRankGaussian, Members
from bench.run.runner import Runner
from bench.specs import FitSpec, member, seed_for
from bench.store.store import Store
from methods.ensemble import Ensemble, LowRankMixture, MultiSwag


def test_members_are_independent_but_share_the_hold_out() -> None:
    fit = plan("ensemble", seed=21, ensemble={"members": 4}, tune_share=0.25).fit
    assert fit.bases[0] == plan("adamw", seed=21, tune_share=0.25).fit
    assert fit.root == fit.bases[0] and len({base.seed for base in fit.bases}) == 4
    for stream in ("data", "init", "train"):
        assert len({seed_for(base, stream) for base in fit.bases}) == 4
    assert len({seed_for(base, "holdout") for base in fit.bases}) == 1
    others = plan("ensemble", seed=22, ensemble={"members": 4}).fit.bases
    assert not {base.seed for base in fit.bases} & {base.seed for base in others}


def test_a_member_is_new_down_to_its_root() -> None:
    fit = plan("temperature", protocol="paper").fit
    again = member(fit, 2)
    assert again.seed == again.bases[0].seed != fit.seed and member(fit, 0) == fit


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_every_member_has_the_hold_out_of_its_run(seed: int) -> None:
    fit = plan("adamw", seed=seed).fit
    assert len({seed_for(member(fit, m), "holdout") for m in range(5)}) == 1


def test_a_family_trains_each_member_once_and_its_cost_is_theirs(tmp_path: Path) -> None:
    runs = [plan(method) for method in ("adamw", "mc_dropout", "ensemble")]
    assert count_fits(runs) == {"adamw": 3, "ensemble": 1}
    (family,) = families(runs)
    store = Store(tmp_path)
    Runner(store=store).run(family)
    record = store.record(runs[2])
    known = load(tmp_path)
    (group,) = (group for group in known.results if group.spec.method == record.spec.method)
    chain = known.fits.chain(record.spec.fit, group.records[0].facts)
    assert chain is not None and sum(facts.steps for facts in chain) == 3 * 8
    seconds = [store.fit_facts(base)["seconds"]["train"] for base in runs[2].fit.bases]
    assert sum(facts.train_seconds for facts in chain) == pytest.approx(sum(seconds))
    posterior = store.posterior(runs[2].fit)
    assert isinstance(posterior, Members) and len(posterior) == 3
    for values, base in zip(posterior, runs[2].fit.bases, strict=True):
        assert all((values[n] == v).all() for n, v in store.posterior(base).mean.items())
    for one, other in itertools.combinations(posterior, 2):
        assert any((one[name] != other[name]).any() for name in one)
    members, alone = (store.predictions(run)["log_probs"] for run in (runs[2], runs[0]))
    assert members.shape[0] == 3 and (members[0] == alone[0]).all()


def started(method: Any, store: Store, fits: list[FitSpec]) -> Any:
    return method.fit(SimpleNamespace(starts=tuple(store.posterior(fit) for fit in fits)))


def test_identical_members_are_one(tmp_path: Path) -> None:
    store = compute(plan("adamw"), tmp_path)
    fit = plan("adamw").fit
    members = started(Ensemble(), store, [fit] * 3)
    assert len(list(members)) == 3
    for values in members:
        assert all((values[name] == value).all() for name, value in store.posterior(fit).mean.items())
    one = plan("ensemble", ensemble={"members": 1})
    found = compute(one, tmp_path)
    log_probs = found.predictions(one)["log_probs"]
    labels = found.predictions(one)["labels"]
    assert (log_probs == found.predictions(plan("adamw"))["log_probs"]).all()
    assert score(np.repeat(log_probs, 3, 0), labels) == pytest.approx(score(log_probs, labels), abs=1e-12)


def test_multi_swag_of_one_member_is_swag_and_at_tau_zero_the_means(tmp_path: Path) -> None:
    one = plan("multi_swag", multi_swag={"members": 1, "draws": 4})
    swag = plan("swag", swag={"draws": 4})
    for run in (one, swag):
        store = compute(run, tmp_path)
    assert (store.predictions(one)["log_probs"] == store.predictions(swag)["log_probs"]).all()
    twins = started(MultiSwag(), store, [plan("swa").fit] * 2)
    assert isinstance(twins, LowRankMixture)
    for gaussian in twins:
        original = store.posterior(plan("swa").fit)
        assert all((gaussian.deviations[n] == d).all() for n, d in original.deviations.items())  # type: ignore[attr-defined]
    zero = plan("multi_swag", multi_swag={"members": 2, "tau": 0, "draws": 4})
    log_probs = compute(zero, tmp_path).predictions(zero)["log_probs"]
    mean = plan("swa")
    assert log_probs.shape[0] == 2 and (log_probs[0] == compute(mean, tmp_path).predictions(mean)["log_probs"]).all()


def test_multi_swag_draws_equally_from_each_member(tmp_path: Path) -> None:
    run = plan("multi_swag", multi_swag={"members": 2, "draws": 3})
    assert count_fits([run, plan("swag")]) == {"swa": 2, "multi_swag": 1}
    log_probs = compute(run, tmp_path).predictions(run)["log_probs"]
    assert log_probs.shape[0] == 6 and len({row.tobytes() for row in log_probs}) == 6


def test_the_first_draws_of_multi_swag_are_of_all_members() -> None:
    def around(mean: float) -> LowRankGaussian:
        return LowRankGaussian({"a": torch.full((3,), mean)}, {"a": torch.ones(3)}, {"a": torch.ones(2, 3)})

    job = SimpleNamespace(
        posterior=LowRankMixture.of([around(0), around(1e4), around(2e4)]), generator=torch.Generator().manual_seed(1)
    )
    draws = [params["a"] for params in MultiSwag(draws=2).draw(job)]  # type: ignore[arg-type]
    assert [round(float(draw.mean()) / 1e4) for draw in draws] == [0, 1, 2, 0, 1, 2]
    assert len({draw.sub(1e4 * (k % 3)).numpy().tobytes() for k, draw in enumerate(draws)}) == 6


@pytest.mark.parametrize(
    ("method", "values", "sentence"),
    [
        (Ensemble, {"members": 0}, "ensemble.members is 0"),
        (MultiSwag, {"draws": 0}, "multi_swag.draws is 0"),
        (MultiSwag, {"tau": -1.0}, "multi_swag.tau is -1.0"),
    ],
)
def test_options_out_of_range_are_named(method: Any, values: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        method.make(values)
