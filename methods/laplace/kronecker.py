"""Kronecker-factored Gaussians over adapters: factors summed over the data, and the posterior they make.

For a parameter W (out, in) the curvature is taken to be G (out, out) x A (in, in), with row-major vec(W): an input
factor A from what the map reads, an output factor G from the gradients at its output. Martens and Grosse 2015; for
weights shared over tokens Eschenhagen et al. 2023, arXiv 2311.00636, has two conventions, with x_bt and g_bkt the input
and output gradient of example b, root k (methods.laplace.curvature) and token t, N examples and R = sum_b T_b tokens
(maps of the answer head count one token, the last, of each example: R = N):

    expand   A = 1/R sum_b sum_t x_bt x_bt^T      G = sum_b sum_k sum_t g_bkt g_bkt^T
    reduce   A = 1/N sum_b m_b m_b^T              G = sum_b sum_k s_bk s_bk^T,   m_b = mean_t x_bt,  s_bk = sum_t g_bkt

Both are sums over the whole training set, ignore padding, and do not depend on how it is cut into batches. Parameters
whose maps read one tensor (A of q and A of v) share one input factor.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from bench.posterior import Params, Posterior, flat_noise, sum_of_squares
from bench.train.seeding import seed_global
from methods.laplace.curvature import Tape, output_gradients
from methods.laplace.room import check_room


class Factor:
    """A symmetric sum of x x^T, (d, d): dense, or, for d above ``rank`` > 0, near its best approximation of that rank.

    The sum is cut to that rank whenever rows are added, so what is cut early is lost even where later rows add to it:
    the result is the best approximation for sure only where the whole sum has no higher rank.
    """

    def __init__(self, size: int, rank: int) -> None:
        self.size = size
        self.rank = rank if 0 < rank < size else 0
        self._sum: Tensor | None = None  # dense: (d, d); low rank: (k, d) rows with sum rows^T rows

    def add(self, rows: Tensor) -> None:
        """Add sum_i x_i x_i^T for (n, d) rows."""
        if not self.rank:
            gram = rows.T @ rows
            self._sum = gram if self._sum is None else self._sum.add_(gram)
            return
        whole = rows if self._sum is None else torch.cat([self._sum, rows])
        self._sum = whole if len(whole) <= self.rank else _largest(whole, self.rank)

    def decompose(self) -> tuple[Tensor, Tensor]:
        """((d, k) orthonormal eigenvectors, (k,) eigenvalues >= 0), k = d where the factor is dense."""
        if self._sum is None:
            raise ValueError("A Kronecker factor saw no data: the training set is empty.")
        if self.rank:
            _, values, vectors = torch.linalg.svd(self._sum, full_matrices=False)
            return vectors.T.contiguous(), values.square()
        values, vectors = _eigh(self._sum)
        return vectors, values.clamp(min=0)  # a sum of squares: below zero is rounding


def _largest(rows: Tensor, rank: int) -> Tensor:
    """(rank, d) rows whose sum of x x^T is the best approximation, of that rank, of that of ``rows``."""
    if min(rows.shape) <= 4 * rank:
        _, values, vectors = torch.linalg.svd(rows, full_matrices=False)
    else:
        devices = [rows.device] if rows.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # svd_lowrank draws from the global stream
            seed_global(0, rows.device)
            _, values, columns = torch.svd_lowrank(rows, q=rank + 8, niter=2)
        vectors = columns.T
    largest: Tensor = values[:rank, None] * vectors[:rank]
    return largest


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors; what does not converge in float32 is done on the CPU in float64."""
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        values, vectors = torch.linalg.eigh(matrix.cpu().double())
        values, vectors = values.to(matrix), vectors.to(matrix)
    return values, vectors


class Rows:
    """The contribution of one batch to the factors."""

    def __init__(self, tape: Tape, convention: str, tokens: int, examples: int) -> None:
        reduce = convention == "reduce"
        self.sources = tape.sources
        self.inputs: dict[int, Tensor] = {}
        for name, x in tape.inputs.items():
            if tape.sources[name] not in self.inputs:
                count = examples if reduce or name in tape.at_end else tokens
                scaled = (tape.mean_input(name) if reduce else x.flatten(0, 1)) / count**0.5
                self.inputs[tape.sources[name]] = scaled
        pulled = list(output_gradients(tape))
        self.outputs = {
            name: torch.cat([(g[name].sum(1) if reduce else g[name].flatten(0, 1)) for g in pulled])
            for name in tape.inputs
        }


@dataclasses.dataclass
class Factors:
    """The factors of all parameters, summed over batches: ``factors += rows``."""

    shapes: dict[str, tuple[int, int]]  # name -> (out, in)
    rank: int = 0
    sources: dict[str, int] = dataclasses.field(default_factory=dict)
    inputs: dict[int, Factor] = dataclasses.field(default_factory=dict)
    outputs: dict[str, Factor] = dataclasses.field(default_factory=dict)

    def __iadd__(self, rows: Rows) -> Factors:
        if self.sources and self.sources != rows.sources:
            raise ValueError(
                "The adapters share their inputs in one batch and not in another: curvature needs one way."
            )
        if not self.sources:
            self._check_room(rows)
        self.sources = rows.sources
        for name, (out, width) in self.shapes.items():
            self.inputs.setdefault(self.sources[name], Factor(width, self.rank))
            self.outputs.setdefault(name, Factor(out, self.rank)).add(rows.outputs[name])
        for source, x in rows.inputs.items():
            self.inputs[source].add(x)
        return self

    def _check_room(self, rows: Rows) -> None:
        """Refuse, at the first batch, factors that cannot fit on their devices."""
        all_rows = [*rows.inputs.values(), *(rows.outputs[name] for name in self.shapes)]
        for device in {each.device for each in all_rows}:
            here = [each for each in all_rows if each.device == device]
            check_room([each.shape[1] for each in here], self.rank, here[0].element_size(), device)

    def decompose(self, damping: bool = False) -> Decomposed:
        """The factors' eigenvalues and eigenvectors. (laplace-torch passes ``damping``; the suite has none.)"""
        numbers = {source: number for number, source in enumerate(self.inputs)}
        vectors, values = {}, {}
        for source, factor in self.inputs.items():
            vectors[str(numbers[source])], values[str(numbers[source])] = factor.decompose()
        sides = {}
        for number, (name, factor) in enumerate(self.outputs.items(), len(numbers)):
            vectors[str(number)], values[str(number)] = factor.decompose()
            sides[name] = torch.tensor([number, numbers[self.sources[name]]])
        return Decomposed(self.shapes, vectors, values, sides)


@dataclasses.dataclass(frozen=True)
class Decomposed:
    """G x A + prior I for every parameter, as far as laplace-torch's evidence needs it: scaled, shifted, its logdet."""

    shapes: dict[str, tuple[int, int]]
    vectors: dict[str, Tensor]
    values: dict[str, Tensor]
    sides: dict[str, Tensor]
    scale: float | Tensor = 1.0
    prior: float | Tensor = 0.0

    def __mul__(self, scale: float | Tensor) -> Decomposed:
        return dataclasses.replace(self, scale=scale)

    def __add__(self, prior: Tensor) -> Decomposed:
        if prior.numel() != 1:
            raise ValueError("The prior precision of shared factors is one number for all parameters.")
        return dataclasses.replace(self, prior=prior.squeeze())

    def logdet(self) -> Tensor:
        """log det: sum_ij log(gamma_i lambda_j + prior), and log prior for each direction outside the factors."""
        prior = torch.as_tensor(self.prior).double()
        total = torch.zeros((), dtype=torch.float64, device=prior.device)
        for name, (out, width) in self.shapes.items():
            g, a = (self.values[str(int(side))].double() for side in self.sides[name])
            total = total + (self.scale * torch.outer(g, a) + prior).log().sum()
            if rest := out * width - len(g) * len(a):
                total = total + rest * prior.log()
        return total


@dataclasses.dataclass(frozen=True)
class KroneckerGaussian(Posterior):
    """N(m, (G x A + prior I)^-1) for every parameter W, independent of each other.

    With G = U diag(g) U^T, A = V diag(a) V^T, truncated or not, and Z standard normal in W's shape, a draw is

        m + sqrt(tau) (U (S o U^T Z V) V^T + prior^-1/2 (Z - U U^T Z V V^T)),   S_ij = (g_i a_j + prior)^-1/2.

    Attributes:
        location: name -> m, (out, in); a name that ``sides`` lacks is known exactly.
        vectors, values: number of a factor -> its (d, k) eigenvectors and (k,) eigenvalues; parameters share factors.
        sides: name -> the numbers of its output and its input factor, (2,).
        prior: ``precision`` -> ().
    """

    kind = "kronecker"
    location: Params
    vectors: Params
    values: Params
    sides: Params
    prior: Params

    @property
    def mean(self) -> Params:
        return self.location

    @property
    def uncertain(self) -> list[str]:
        return [name for name in self.location if name in self.sides]

    def _draw(self, generator: torch.Generator, tau: float) -> Params:
        noise = flat_noise(self.location, generator)
        return {
            name: m + tau**0.5 * self._root(name, noise[name]) if name in self.sides else m
            for name, m in self.location.items()
        }

    def covariance(self, jacobians: Params) -> Tensor:
        known = {name: jacobian for name, jacobian in jacobians.items() if name in self.sides}
        # U and V are orthonormal, so the inside part need not be turned back
        return sum_of_squares(known, lambda name, jacobian: torch.cat(
            [part.flatten(2) for part in self._parts(name, jacobian)], -1))  # fmt: skip

    def _root(self, name: str, w: Tensor) -> Tensor:
        """The root of the covariance times W (..., out, in)."""
        inside, *outside = self._parts(name, w)
        (u, _), (v, _) = self._factors(name)
        return sum(outside, u @ inside @ v.T)

    def _parts(self, name: str, w: Tensor) -> list[Tensor]:
        """The root of the covariance times W: what lies in the factors, in their coordinates, and the rest if any."""
        (u, g), (v, a) = self._factors(name)
        precision = self.prior["precision"]
        middle = u.T @ w @ v
        inside = middle / (torch.outer(g, a) + precision).sqrt()
        if u.shape[0] == u.shape[1] and v.shape[0] == v.shape[1]:
            return [inside]
        return [inside, (w - u @ middle @ v.T) / precision.sqrt()]

    def _factors(self, name: str) -> list[tuple[Tensor, Tensor]]:
        numbers = [str(number) for number in self.sides[name].tolist()]
        return [(self.vectors[number], self.values[number]) for number in numbers]
