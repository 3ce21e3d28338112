"""The Laplace methods: options, predictives, and what they store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import compute
from support import plan_few as plan

from bench.method import get_method
from bench.posterior import load_posterior
from methods.laplace.curvature import jacobians
from methods.laplace.kronecker import KroneckerGaussian
from methods.laplace.laplace import last_block


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store: the AdamW fits that all methods start from are computed once."""
    return tmp_path_factory.mktemp("runs")


def test_the_evidence_is_stored_and_a_fixed_precision_is_kept(folder: Path) -> None:
    run = plan("la_kfac")
    facts = compute(run, folder).fit_facts(run.fit)
    assert facts["seconds"]["train"] == 0 and facts["seconds"]["posterior"] > 0 and facts["steps"] == 0
    assert facts["diagnostics"]["log_evidence"] < facts["diagnostics"]["log_likelihood"] < 0
    fixed = plan("la_kfac", la_kfac={"prior_precision": 5.0})
    posterior = load_posterior(compute(fixed, folder).folder(fixed.fit) / "posterior.safetensors")
    assert isinstance(posterior, KroneckerGaussian) and float(posterior.prior["precision"]) == 5


@pytest.mark.parametrize("name", ["la_kfac", "la_diag"])
def test_an_evidence_short_of_its_maximum_is_warned_of(name: str, folder: Path) -> None:
    one_draw = {"predictive": "sampled", "draws": 1}  # the fit is what matters here
    for steps, warned in ((1, True), (300, False)):
        run = plan(name, adamw={"lr": 0.05}, steps=40, **{name: {"evidence_steps": steps, **one_draw}})
        facts = compute(run, folder).fit_facts(run.fit)
        assert [sentence for sentence in facts["warnings"] if "does not maximise the Laplace evidence" in sentence] == (
            facts["warnings"] if warned else []
        )
        assert bool(facts["warnings"]) == warned == (facts["diagnostics"]["log_evidence_missed"] > 0.5)
    fixed = plan(name, adamw={"lr": 0.05}, steps=40, **{name: {"prior_precision": 50.0, **one_draw}})
    assert compute(fixed, folder).fit_facts(fixed.fit)["warnings"] == []


@pytest.mark.parametrize("name", ["la_kfac", "la_diag"])
def test_tau_zero_is_adamw_and_ways_to_predict_agree_where_the_posterior_is_narrow(name: str, folder: Path) -> None:
    base, zero = plan("adamw"), plan(name, **{name: {"tau": 0}})
    assert (compute(base, folder).predictions(base)["log_probs"] == compute(zero, folder).predictions(zero)[
        "log_probs"]).all()  # fmt: skip
    narrow = {"prior_precision": 1e7}
    ways = [{}, {"link": "probit"}, {"predictive": "sampled"}, {"jacobian_batch": 3}]
    runs = [plan(name, **{name: {**narrow, **way}}) for way in ways]
    found = [compute(run, folder).predictions(run)["log_probs"] for run in runs]
    assert [f.shape[0] for f in found] == [1, 1, 10, 1]
    for other in found:
        assert abs(other.mean(0) - found[0][0]).max() < 0.01


@pytest.mark.parametrize("name", ["la_kfac", "la_diag"])
def test_only_the_last_block_is_uncertain_when_asked(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[tuple[str, ...]] = set()

    def noted(model: Any, batch: Any, names: Any) -> Any:
        asked.add(tuple(names))
        return jacobians(model, batch, names)

    monkeypatch.setattr("methods.laplace.laplace.jacobians", noted)
    run = plan(name, **{name: {"subset": "last"}})
    posterior = compute(run, folder).posterior(run.fit)
    (draw,) = posterior.draws(1, torch.Generator().manual_seed(0))
    moved = {n for n, value in draw.items() if not torch.equal(value, posterior.mean[n])}
    assert moved == set(last_block(list(draw))) and all(".1." in n for n in moved)
    assert asked == {tuple(last_block(list(draw)))}, "Jacobians of what is known are not taken"


def test_a_low_rank_posterior_is_small_and_wider(folder: Path) -> None:
    sizes, spreads = [], []
    for rank in (0, 4):
        run = plan("la_kfac", la_kfac={"factor_rank": rank, "prior_precision": 3.0})
        store = compute(run, folder)
        posterior = store.posterior(run.fit)
        sizes.append((store.folder(run.fit) / "posterior.safetensors").stat().st_size)
        (draw,) = posterior.draws(1, torch.Generator().manual_seed(0))
        spreads.append(sum(float((draw[n] - m).square().sum()) for n, m in posterior.mean.items()))
    assert sizes[1] < sizes[0] / 2 and spreads[1] > spreads[0]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"convention": "expnd"}, "Did you mean 'expand'"),
        ({"link": "probt"}, "Did you mean 'probit'"),
        ({"tau": -1}, "la_kfac.tau is -1.0: must be at least 0"),
        ({"draws": 0}, "at least 1"),
        ({"factor_rank": -1}, "la_kfac.factor_rank is -1: must be at least 0"),
    ],
)
def test_wrong_options_get_a_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        get_method("la_kfac").make(values)


def test_names_without_blocks_have_no_last_block() -> None:
    with pytest.raises(ValueError, match="no block numbers"):
        last_block(["head.lora_A.weight"])


def test_a_covariance_that_rounding_has_spoilt_is_averaged_over_and_a_wrong_one_is_not() -> None:
    logits = torch.zeros(2, 2)
    wide = torch.tensor([[1e12, 1e12], [1e12, 1e12 - 1]], dtype=torch.float64)  # its determinant is below 0
    method: Any = get_method("la_kfac").make()
    noise = torch.randn(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = method._average(logits, torch.stack([wide, torch.eye(2).double()]), noise)
    assert found.isfinite().all()
    plain = method._average(logits[:1], torch.eye(2).double()[None], noise)
    assert torch.equal(found[1:], plain)
    with pytest.raises(FloatingPointError, match="raise prior_precision"):
        method._average(logits[:1], -wide[None], noise)
