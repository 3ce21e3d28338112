"""Last-layer Laplace: against laplace-torch on a toy, against autograd in real model families, and its limits."""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from support import compute, plan
from tiny import FAMILIES, LETTERS, build, byte_level, lora, one_batch, save
from torch import Tensor, nn

from bench.model.choice_model import LastLayer, load_model
from methods.last_layer.llla import HeadCurvature, HeadGaussian, best_precision, head_weights, log_evidence

C, D, N = 3, 5, 40


def toy(n: int = N) -> tuple[nn.Sequential, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, D), nn.Tanh(), nn.Linear(D, C, bias=False)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return model, x, torch.randint(C, (n,), generator=generator)


def layer(model: nn.Sequential, x: Tensor) -> LastLayer:
    features = model[:2](x).detach()
    return LastLayer(features, model[2](features).detach(), torch.eye(C, dtype=torch.float64).expand(len(x), C, C))


def posterior(model: nn.Sequential, x: Tensor, precision: float, rank: int = 0) -> HeadGaussian:
    curvature = HeadCurvature(rank)
    for rows in x.split(7):
        curvature.add(layer(model, rows), len(x))
    vectors, values = curvature.eigen()
    prior = torch.tensor(precision, dtype=torch.float64)
    return HeadGaussian({}, {"head": vectors}, {"head": values}, {"precision": prior})


@pytest.mark.parametrize("n", [5, N])  # fewer rows than weights, and more
def test_it_is_the_full_last_layer_of_laplace_torch(n: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from laplace import FullLLLaplace

        model, x, y = toy(n)
        theirs = FullLLLaplace(model, "classification", prior_precision=0.7)
        theirs.fit(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=n))
        ours = posterior(model, x, 0.7)
        test = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        _, wanted = theirs._glm_predictive_distribution(test)
        torch.testing.assert_close(ours.logit_covariance(layer(model, test)), wanted.double(), rtol=1e-6, atol=1e-9)
        squares = float(model[2].weight.square().sum())
        evidence = float(theirs.log_likelihood) + log_evidence(ours.values["head"], squares, 0.7)
        assert evidence == pytest.approx(float(theirs.log_marginal_likelihood()), rel=1e-6)


def test_the_prior_precision_is_where_the_evidence_is_flat() -> None:
    model, x, _ = toy()
    values, squares = posterior(model, x, 1.0).values["head"], float(model[2].weight.square().sum())
    best = best_precision(values, squares)
    step = 1e-3
    slope = (log_evidence(values, squares, best * (1 + step)) - log_evidence(values, squares, best / (1 + step))) / step
    assert abs(slope) < 1e-4
    assert all(
        log_evidence(values, squares, best * f) < log_evidence(values, squares, best) for f in (0.1, 0.8, 1.2, 9)
    )


def test_a_smaller_rank_is_wider_and_converges() -> None:
    model, x, _ = toy()
    spreads = [
        posterior(model, x, 0.7, rank).logit_covariance(layer(model, x[:6])).diagonal(dim1=1, dim2=2).sum().item()
        for rank in (1, 4, 8, C * D)
    ]
    assert all(wide > narrow for wide, narrow in itertools.pairwise(spreads))
    whole = posterior(model, x, 0.7).logit_covariance(layer(model, x[:6])).diagonal(dim1=1, dim2=2).sum().item()
    assert spreads[-1] == pytest.approx(whole)


@pytest.mark.parametrize("family", ["gpt2", "opt", "gemma", "gemma2", "qwen2", "cohere", "phi", "mixtral"])
@pytest.mark.parametrize("targets", [(), ("head",)])
def test_the_logit_covariance_is_that_of_autograd(family: str, targets: tuple[str, ...], tmp_path: Path) -> None:
    """J (H + I)^-1 J^T with J the derivative of the logits in the head's weights, with what caps and scales them."""
    options, own = FAMILIES[family]
    spec = lora((*own, *targets), r=2)
    model = load_model(spec, save(tmp_path / family, build(family, options), byte_level()), torch.device("cpu"))
    model.prepare(LETTERS[:C], seed=3)
    batch = one_batch(model)
    found = model.last_layer(batch)
    torch.testing.assert_close(found.features, model.features(batch).detach())
    torch.testing.assert_close(found.logits, model.logits(batch).detach())
    base: Any = next(m for m in model.head.modules() if isinstance(m, nn.Linear))
    base.weight.requires_grad_(True)
    logits = model.logits(batch)
    rows = [torch.autograd.grad(one, base.weight, retain_graph=True)[0].flatten() for one in logits.flatten()]
    jacobian = torch.stack(rows).reshape(*logits.shape, -1).double()
    base.weight.requires_grad_(False)
    p = logits.detach().double().softmax(-1)
    hessian = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    precision = torch.einsum("bcp,bcd,bdq->pq", jacobian, hessian, jacobian) + torch.eye(jacobian.shape[2])
    wanted = jacobian @ precision.inverse() @ jacobian.mT
    curvature = HeadCurvature()
    curvature.add(found, len(batch))
    vectors, values = curvature.eigen()
    one = torch.ones((), dtype=torch.float64)
    ours = HeadGaussian({}, {"head": vectors}, {"head": values}, {"precision": one})
    torch.testing.assert_close(ours.logit_covariance(found), wanted, rtol=1e-4, atol=1e-6)


def test_the_heads_weights_hold_what_its_adapters_add(tmp_path: Path) -> None:
    options, own = FAMILIES["phi"]  # its head has a bias
    spec = lora((*own, "head"), r=2)
    model = load_model(spec, save(tmp_path / "phi", build("phi", options), byte_level()), torch.device("cpu"))
    model.prepare(LETTERS[:C], seed=3)
    with torch.no_grad():
        for value in model.params.values():
            value.add_(0.1)
    a, b = (value for name, value in model.params.items() if "lm_head" in name)
    base: Any = next(m for m in model.head.modules() if isinstance(m, nn.Linear))
    torch.testing.assert_close(head_weights(model.head), base.weight + 8 * b @ a, rtol=1e-4, atol=1e-5)


def test_tau_zero_is_adamw_and_the_rest_is_one_row_of_one_pass(tmp_path: Path) -> None:
    base, zero, run = plan("adamw"), plan("llla", llla={"tau": 0}), plan("llla")
    stores = [compute(one, tmp_path) for one in (base, zero, run)]
    found = [store.predictions(one)["log_probs"] for store, one in zip(stores, (base, zero, run), strict=True)]
    assert (found[0] == found[1]).all() and found[2].shape == found[0].shape and (found[2] != found[0]).any()
    facts = stores[2].fit_facts(run.fit)
    assert facts["forward_passes"] == 256 and facts["steps"] == 0 and facts["warnings"] == []
    assert stores[2].record(run).facts["forward_passes"] == len(found[0][0])
    assert 0 < facts["diagnostics"]["effective_parameters"] < facts["diagnostics"]["eigenvectors"]
    assert math.isfinite(facts["diagnostics"]["log_evidence"])
    probit = plan("llla", llla={"link": "probit"})
    other = compute(probit, tmp_path).predictions(probit)["log_probs"]
    assert abs(other - found[2]).max() < 0.1


def test_a_fixed_precision_is_kept_and_a_narrow_posterior_is_adamw(tmp_path: Path) -> None:
    run, base = plan("llla", llla={"prior_precision": 1e9}), plan("adamw")
    store = compute(run, tmp_path)
    gaussian = store.posterior(run.fit)
    assert isinstance(gaussian, HeadGaussian) and float(gaussian.prior["precision"]) == 1e9
    found, wanted = (compute(one, tmp_path).predictions(one)["log_probs"] for one in (run, base))
    assert abs(found - wanted).max() < 1e-4
