"""Evidence, prior precision and covariance, against laplace-torch's own backends and dense matrices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from curvature_oracle import CPU, dense, gaussian, summed, toy_batch
from torch import Tensor, nn

from bench.data.batches import Batch, Encoded
from bench.model.adapters import Adapter
from bench.model.choice_model import ChoiceModel
from bench.process.progress import Progress
from bench.task import Example
from methods.laplace import curvature
from methods.laplace.curvature import Tape, diagonal, jacobians
from methods.laplace.kronecker import Factors, Rows
from methods.laplace.laplace_torch import AdapterCurvature, Passes, ReadOut, SharedKronLaplace, tune_prior


class Whole(nn.Module):
    """The peft model as laplace-torch's own backends take it."""

    def __init__(self, model: ChoiceModel) -> None:
        super().__init__()
        self.inner = model._module

    def forward(self, x: dict[str, Any]) -> Tensor:
        inputs = {name: x[name] for name in ("input_ids", "attention_mask", "position_ids")}
        logits: Tensor = self.inner(**inputs, use_cache=False).logits[:, -1]
        return logits


def as_mapping(batch: Batch) -> dict[str, Tensor]:
    names = ("input_ids", "attention_mask", "position_ids", "labels")
    return {name: getattr(batch, name) for name in names}


@pytest.fixture(scope="module")
def unpadded(model: ChoiceModel) -> Encoded:
    """Prompts of eight tokens each: the batch needs no padding, which laplace-torch's backends would count."""
    text = [(1, 40 + i, 300, 7 * i + 2, 90, 12, 500, 33) for i in range(3)]
    return Encoded(tuple(text), tuple(Example("x", i) for i in range(3)), 0, CPU, 0)


def test_the_expand_convention_is_that_of_laplace_torch(model: ChoiceModel, unpadded: Encoded) -> None:
    from laplace.curvature import CurvlinopsGGN

    batch = unpadded.batch([0, 1, 2])
    backend = CurvlinopsGGN(Whole(model), "classification")
    _, theirs = backend.kron(as_mapping(batch), batch.labels, N=3)
    ours = summed(model, [batch], unpadded, "expand")
    torch.testing.assert_close(dense(ours), theirs.to_matrix().double(), rtol=1e-5, atol=1e-8)


def test_the_diagonal_is_that_of_laplace_torch(model: ChoiceModel, unpadded: Encoded) -> None:
    from laplace.curvature import GGNInterface

    batch = unpadded.batch([0, 1, 2])
    theirs = GGNInterface(Whole(model), "classification")
    loss, wanted = theirs.full(as_mapping(batch), batch.labels)
    ours = AdapterCurvature(ReadOut(model, model.params, list(model.params)), "classification")
    found_loss, found = ours.diag({"batch": batch}, batch.labels)
    torch.testing.assert_close(found_loss, loss)
    torch.testing.assert_close(found, wanted.diagonal(), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(ours.full({"batch": batch}, batch.labels)[1], wanted, rtol=1e-6, atol=1e-10)


class Loader:
    def __init__(self, data: Encoded) -> None:
        self.dataset = data

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in range(len(self.dataset)):
            batch = self.dataset.batch([row])
            yield {"batch": batch, "labels": batch.labels}


def fitted(model: ChoiceModel, data: Encoded, rank: int = 0) -> SharedKronLaplace:
    scale = {"convention": "expand", "tokens": sum(map(len, data.tokens)), "examples": len(data)}
    read_out = ReadOut(model, model.params, list(model.params), rank)
    laplace = SharedKronLaplace(read_out, "classification", backend=AdapterCurvature, backend_kwargs=scale)
    laplace.fit(Loader(data))  # type: ignore[arg-type]
    return laplace


@pytest.mark.parametrize("rank", [0, 5])
def test_evidence_and_covariance_are_those_of_dense_matrices(model: ChoiceModel, data: Encoded, rank: int) -> None:
    prior = 0.7
    laplace = fitted(model, data, rank)
    facts = tune_prior(laplace, prior, 1, 0.1)
    factors = summed(model, [data.batch([row]) for row in range(3)], data, "expand", rank)
    precision = dense(factors, prior)
    theta = torch.cat([value.detach().flatten() for value in model.params.values()])
    loss = sum(nn.functional.cross_entropy(model.logits(b), b.labels).item() for b in map(data.batch, ([0], [1], [2])))
    ratio = precision.logdet() - len(theta) * torch.tensor(prior, dtype=torch.float64).log()
    assert facts["log_evidence"] == pytest.approx(float(-loss - 0.5 * (ratio + prior * theta @ theta)), rel=1e-6)
    found, _ = jacobians(model, data.batch([0, 1]), list(model.params))
    flat = torch.cat([j.flatten(2) for j in found.values()], -1)
    covariance = gaussian(model, factors, prior).covariance(found)
    torch.testing.assert_close(covariance, flat @ precision.inverse() @ flat.mT, rtol=1e-6, atol=1e-12)


def test_the_covariance_is_that_of_laplace_torch_on_the_same_factors(model: ChoiceModel, unpadded: Encoded) -> None:
    from laplace.baselaplace import KronLaplace
    from laplace.curvature import CurvlinopsGGN

    batch = unpadded.batch([0, 1, 2])
    theirs = KronLaplace(Whole(model), "classification", prior_precision=2.0, backend=CurvlinopsGGN)

    class Once:
        dataset = [0, 1, 2]

        def __iter__(self) -> Iterator[dict[str, Tensor]]:
            yield as_mapping(batch)

    theirs.fit(Once())  # type: ignore[arg-type]
    found, _ = jacobians(model, batch, list(model.params))
    wanted = theirs.functional_variance(torch.cat([j.flatten(2) for j in found.values()], -1))
    ours = gaussian(model, summed(model, [batch], unpadded, "expand"), 2.0)
    torch.testing.assert_close(ours.covariance(found), wanted.double(), rtol=1e-4, atol=1e-8)
    evidence = tune_prior(fitted(model, unpadded), 2.0, 1, 0.1)["log_evidence"]
    assert evidence == pytest.approx(float(theirs.log_marginal_likelihood()), rel=1e-5)


def test_the_prior_precision_maximises_the_evidence(model: ChoiceModel, data: Encoded) -> None:
    laplace = fitted(model, data)
    best = tune_prior(laplace, 0.0, 400, 0.1)
    assert abs(best["log_evidence_slope"]) < 1e-2
    for factor in (0.5, 2.0):
        other = tune_prior(fitted(model, data), factor * best["prior_precision"], 1, 0.1)
        assert other["log_evidence"] < best["log_evidence"]


@pytest.mark.parametrize("orthogonal", [False, True])
def test_the_conjugate_posterior_of_a_linear_model(monkeypatch: pytest.MonkeyPatch, orthogonal: bool) -> None:
    """y = W x + noise of variance s2 and prior N(0, I / p): P = I x X^T X / s2 + p I. KFAC is exact; the diagonal is
    for orthogonal inputs."""
    s2, prior, n = 0.25, 2.0, 40
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    if orthogonal:
        x = torch.linalg.qr(x).Q * torch.tensor([1.0, 3.0, 9.0], dtype=torch.float64)
    linear = nn.Linear(3, 2, bias=False, dtype=torch.float64)

    class Linear:
        adapters = {"w": Adapter(linear, linear, True)}

        def logits(self, batch: Batch) -> Tensor:
            return linear(x.unsqueeze(1))[:, -1]

    unit = torch.eye(2, dtype=torch.float64)[:, None, :].expand(2, n, 2) / s2**0.5
    monkeypatch.setattr(curvature, "roots", lambda logits: unit)  # the Hessian of a Gaussian likelihood is I / s2
    exact = torch.kron(torch.eye(2, dtype=torch.float64), x.T @ x / s2) + prior * torch.eye(6, dtype=torch.float64)
    batch = toy_batch(n)
    for convention in ("expand", "reduce"):
        factors = Factors({"w": (2, 3)})
        factors += Rows(Tape(Linear(), batch, ["w"]), convention, n, n)
        torch.testing.assert_close(dense(factors, prior), exact, rtol=1e-10, atol=1e-10)
    variance = 1 / (diagonal(Tape(Linear(), batch, ["w"]))["w"].flatten() + prior)
    distance = (variance / exact.inverse().diagonal() - 1).abs().max()
    assert distance < 1e-10 if orthogonal else 0.001 < distance < 0.2


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_accelerator_takes_batches_of_many_tokens(device: str) -> None:
    tokens = tuple((1,) * (20 + i % 50) for i in range(200))
    examples = tuple(Example("", 0, id=str(i)) for i in range(200))
    data = Encoded(tokens, examples, 0, torch.device(device), 0)
    sizes = [tuple(passed["batch"].input_ids.shape) for passed in Passes(data, 4, Progress())]
    assert sum(rows for rows, _ in sizes) == 200
    if device == "cpu":
        assert {rows for rows, _ in sizes} == {4}
    else:
        assert max(rows * length for rows, length in sizes) <= Passes.TOKENS
        assert len(sizes) < 15
