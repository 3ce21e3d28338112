"""Exact curvature of the embedded base, by torch.func and by multiplying out: oracles of several test files."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.data.batches import Batch, Encoded
from bench.model.choice_model import ChoiceModel
from methods.laplace.curvature import Tape
from methods.laplace.kronecker import Factors, KroneckerGaussian, Rows


def rms_norm(module: Any, x: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + module.variance_epsilon).rsqrt() * module.weight


def exact_jacobians(model: ChoiceModel, batch: Batch) -> Tensor:
    """(B, C, P) by torch.func, which can pass through a base in floating point."""
    point = {name: value.detach() for name, value in model.params.items()}
    found = torch.func.jacrev(lambda params: model.logits(batch, params))(point)
    return torch.cat([found[name].flatten(2) for name in point], -1)


def exact_ggn(model: ChoiceModel, data: Encoded) -> Tensor:
    """(P, P): sum over examples, one at a time, of J^T (diag p - p p^T) J."""
    total: Any = 0
    for row in range(len(data)):
        batch = data.batch([row])
        jacobian = exact_jacobians(model, batch)[0]
        p = model.logits(batch)[0].detach().softmax(-1)
        total = total + jacobian.T @ (p.diag() - torch.outer(p, p)) @ jacobian
    assert isinstance(total, Tensor)
    return total


def summed(model: ChoiceModel, batches: list[Batch], data: Encoded, convention: str, rank: int = 0) -> Factors:
    names = list(model.params)
    factors = Factors({n: (p.shape[0], p.shape[1]) for n, p in model.params.items()}, rank)
    tokens = sum(map(len, data.tokens))
    for batch in batches:
        factors += Rows(Tape(model, batch, names), convention, tokens, len(data))
    return factors


def dense(factors: Factors, prior: float = 0.0) -> Tensor:
    """The block-diagonal precision that the factors stand for, multiplied out."""
    found = factors.decompose()
    blocks = []
    for name, sides in found.sides.items():
        g, a = (
            found.vectors[str(int(s))] @ found.values[str(int(s))].diag() @ found.vectors[str(int(s))].T for s in sides
        )
        blocks.append(torch.kron(g, a) + prior * torch.eye(len(g) * len(a), dtype=g.dtype))
        assert name in factors.shapes
    return torch.block_diag(*blocks)


def gaussian(model: ChoiceModel, factors: Factors, prior: float) -> KroneckerGaussian:
    found = factors.decompose()
    precision = {"precision": torch.tensor(prior, dtype=torch.float64)}
    return KroneckerGaussian(model.snapshot(), found.vectors, found.values, found.sides, precision)


CPU = torch.device("cpu")


PROMPTS = (
    "Who wrote this? Answer:",
    "Select one of the choices that answers the following question: Who? Choices: A. Cook. B. Nurse. Answer:",
    "When was this written, morning or evening? Answer:",
)


def toy_batch(examples: int, tokens: int = 1) -> Batch:
    ones = torch.ones(examples, tokens, dtype=torch.long)
    return Batch(ones, ones, ones, torch.zeros(examples, dtype=torch.long), tuple(map(str, range(examples))))
