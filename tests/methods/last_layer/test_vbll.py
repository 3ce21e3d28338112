"""The variational last layer: its bound against quadrature, its terms against closed forms, and its start."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support import compute, plan
from tiny import FAMILIES, LETTERS, build, byte_level, lora, one_batch, save
from torch import Tensor

from bench.method import get_method
from bench.model.choice_model import load_model
from methods.last_layer.variational import Covariance, Head, VariationalHead

C, D = 3, 4


def head(
    seed: int = 0, answers: int = C, width: int = D, covariance: Covariance = "diagonal", noise: float = 0.3
) -> Head:
    generator = torch.Generator().manual_seed(seed)
    weights, bias = (torch.randn(*shape, generator=generator).double() for shape in ((answers, width), (answers,)))
    made = Head(weights, bias, 0.2, noise, covariance)
    with torch.no_grad():
        for parameter in made.parameters()[1:]:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).double())
    return made


def rows(n: int, width: int, answers: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, width, generator=generator).double()
    return features, torch.randint(answers, (n,), generator=generator)


def log_evidence(features: Tensor, labels: Tensor, made: Head, prior_variance: float) -> float:
    """log of the integral over W of prod_n p(y_n | phi_n), C = 2 and d = 1, by quadrature over W and the noise.

    With two answers p(y = 0) = sigmoid(z_0 - z_1), and the noise of the difference has variance sigma_0^2 + sigma_1^2.
    """
    grid = torch.linspace(-8, 8, 801, dtype=torch.float64) * prior_variance**0.5
    step = float(grid[1] - grid[0])
    density = torch.exp(-grid.square() / (2 * prior_variance)) / math.sqrt(2 * math.pi * prior_variance)
    nodes = torch.linspace(-8, 8, 161, dtype=torch.float64)
    weight = torch.exp(-nodes.square() / 2) / math.sqrt(2 * math.pi) * float(nodes[1] - nodes[0])
    noise = nodes * made.log_noise.exp().sum().sqrt().detach()
    total = torch.zeros(len(grid), len(grid), dtype=torch.float64)
    offset = (made.bias[0] - made.bias[1]).item()
    difference = grid[:, None] - grid[None, :]
    values, inverse = difference.unique(return_inverse=True)
    for phi, y in zip(features[:, 0], labels, strict=True):
        z = (values * phi + offset)[:, None] + noise
        total += (torch.sigmoid(z if y == 0 else -z) * weight).sum(-1).log()[inverse]
    joint = total + density.log()[:, None] + density.log()[None, :]
    return float(joint.flatten().logsumexp(0)) + 2 * math.log(step)


def test_the_bound_lies_below_the_exact_evidence_and_training_closes_the_gap() -> None:
    features, labels = rows(6, 1, 2)
    gaps = []
    for seed in range(3):
        made = head(seed, answers=2, width=1, noise=0.05)
        exact = log_evidence(features, labels, made, 1.5)
        with torch.no_grad():
            gaps.append(exact - float(made.bound(features, labels).sum() - made.divergence(1.5)))
    optimizer = torch.optim.Adam([made.mean, made.log_root], lr=0.05)  # the noise is part of the model: it stays
    for _ in range(300):
        optimizer.zero_grad()
        loss = made.divergence(1.5) - made.bound(features, labels).sum()
        loss.backward()
        optimizer.step()
    closed = log_evidence(features, labels, made, 1.5) + float(loss)
    assert min(gaps) > 0 and 0 < closed < 0.6 < gaps[-1] / 2  # what is left is Jensen's and that of a diagonal q


@pytest.mark.parametrize("covariance", ["diagonal", "dense"])
def test_its_terms_are_those_of_the_distributions(covariance: Covariance) -> None:
    made, (features, labels) = head(covariance=covariance), rows(7, D, C)
    root = made.root() if covariance == "dense" else torch.diag_embed(made.root())
    q = torch.distributions.MultivariateNormal(made.mean, scale_tril=root)
    prior = torch.distributions.MultivariateNormal(torch.zeros(C, D).double(), 1.5 * torch.eye(D).double())
    torch.testing.assert_close(made.divergence(1.5), torch.distributions.kl_divergence(q, prior).sum())
    mean, covariances = made.posterior({}).moments(features)
    noise = torch.randn(200_000, C, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = (made.mean + torch.einsum("cde,sce->scd", root, noise)).detach()
    z = torch.einsum("scd,bd->sbc", drawn, features) + made.bias
    torch.testing.assert_close(z.mean(0), mean, rtol=0, atol=0.02)
    wanted = covariances.diagonal(dim1=1, dim2=2) - made.log_noise.exp()
    torch.testing.assert_close(z.var(0), wanted.detach(), rtol=0.02, atol=0)
    bound = mean[range(7), labels] - (mean + covariances.diagonal(dim1=1, dim2=2) / 2).logsumexp(-1)
    torch.testing.assert_close(made.bound(features, labels), bound)


def test_the_noise_that_the_prior_prefers() -> None:
    """d/d Lambda (nu log Lambda - kappa Lambda / 2) = 0 at Lambda = (dof + C + 1) / kappa."""
    made = head()
    with torch.no_grad():
        made.log_noise.fill_(-math.log((2.0 + C + 1) / 3.0))
    (slope,) = torch.autograd.grad(made.log_noise_prior(dof=2.0, scale=3.0), made.log_noise)
    torch.testing.assert_close(slope, torch.zeros_like(slope))


def loaded(family: str, folder: Path) -> Any:
    options, own = FAMILIES[family]
    model = load_model(lora(own, r=2), save(folder / family, build(family, options), byte_level()), torch.device("cpu"))
    model.prepare(LETTERS[:C], seed=3)
    return model


@pytest.mark.parametrize("family", ["gpt2", "opt", "gemma", "qwen2", "cohere", "phi"])
def test_it_starts_at_the_logits_of_the_base(family: str, tmp_path: Path) -> None:
    model = loaded(family, tmp_path)
    batch = one_batch(model)
    made = get_method("vbll").make().start(model, batch)  # type: ignore[attr-defined]
    mean, _ = made.posterior({}).moments(model.features(batch).detach())
    torch.testing.assert_close(mean.float(), model.logits(batch).detach(), rtol=1e-4, atol=1e-4)


def test_a_model_that_caps_its_logits_is_refused(tmp_path: Path) -> None:
    model = loaded("gemma2", tmp_path)
    with pytest.raises(ValueError, match=r"vbll needs logits that are linear .* caps its logits: use llla"):
        get_method("vbll").make().start(model, one_batch(model))  # type: ignore[attr-defined]


def test_lora_on_the_head_is_refused() -> None:
    with pytest.raises(ValueError, match=r"take `head` out of lora\.targets"):
        plan("vbll", lora={"targets": ["v_proj", "head"]})


@pytest.mark.parametrize("covariance", ["diagonal", "dense"])
def test_training_lowers_the_loss_and_moves_adapters_and_head(covariance: str, tmp_path: Path) -> None:
    settings = {"lr": 3e-3, "head_lr": 1e-2, "covariance": covariance}
    run, zero = plan("vbll", steps=30, vbll=settings), plan("vbll", steps=30, vbll={**settings, "tau": 0})
    store = compute(run, tmp_path)
    posterior = store.posterior(run.fit)
    assert isinstance(posterior, VariationalHead)
    assert all(value.any() for name, value in posterior.value.items() if "lora_B" in name)
    trace = (store.folder(run.fit) / "trace.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in trace]
    assert sum(losses[-5:]) < sum(losses[:5])
    found = store.predictions(run)["log_probs"]
    mean = compute(zero, tmp_path).predictions(zero)["log_probs"]
    assert found.shape == mean.shape and found.shape[0] == 1 and (found != mean).any()
    assert store.fit_facts(run.fit)["diagnostics"]["kl"] > 0
