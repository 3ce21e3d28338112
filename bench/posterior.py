"""Posteriors over the adapter parameters: frozen values with a mean and draws, stored as safetensors.

A draw is ``mean + sqrt(tau) * (deviation)``: ``tau`` scales the covariance, so tau = 0 is the mean and tau = 1 the
posterior itself. It works for every Gaussian, and a posterior without a covariance refuses it with a sentence.

A plug-in may define its own kind of posterior, in the module that registers its method::

    @dataclasses.dataclass(frozen=True)
    class Scaled(Posterior):
        kind = "scaled"           # names the class in stored files: keep it, and let no other posterior have it
        value: Params             # every field is a dict of tensors
        scale: Params

        @property
        def mean(self) -> Params:
            return self.value

Override ``_draw`` for draws, and ``covariance`` for linearised prediction. Whoever reads the stored file needs the
plug-in (``--plugin``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from bench.errors import BrokenPlugin

Params = Mapping[str, Tensor]  # adapter name -> value, in the model's order
P = TypeVar("P", bound="Posterior")

_kinds: dict[str, type[Posterior]] = {}


class Lacks(TypeError):
    """A posterior was asked for what its kind does not have: a mean, draws or a covariance."""


def _called(cls: type) -> tuple[str, str]:
    """What tells a class from others, and not from itself when a notebook defines it again."""
    return cls.__module__, cls.__qualname__


class Posterior:
    """Base of all posteriors. A subclass is a frozen dataclass whose fields are ``dict[str, Tensor]``.

    Subclassing registers the class under ``kind``, which is how a stored file finds its class again.
    """

    kind: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        kind = getattr(cls, "kind", None)
        if kind is None or (kind in _kinds and _called(_kinds[kind]) != _called(cls)):
            raise BrokenPlugin(f"{cls.__qualname__}: set a class attribute `kind` that no other posterior has.")
        _kinds[kind] = cls

    @property
    def mean(self) -> Params:
        """The posterior mean, one tensor per adapter parameter."""
        raise Lacks(f"A posterior of kind '{self.kind}' has no mean.")

    @property
    def uncertain(self) -> list[str]:
        """The parameters that :meth:`covariance` needs Jacobians of."""
        return list(self.mean)

    def draws(self, count: int, generator: torch.Generator, tau: float = 1.0) -> Iterator[Params]:
        """``count`` joint draws of all parameters; at tau = 0 they coincide, so it is one draw.

        The generator lives on the CPU, whatever device the model is on: the draws do not depend on it.
        """
        if tau < 0:
            raise ValueError(f"tau is {tau}: it scales a covariance, so give 0 or more.")
        if tau == 0:
            yield self.mean
            return
        for _ in range(count):
            yield self._draw(generator, tau)

    def _draw(self, generator: torch.Generator, tau: float) -> Params:
        raise Lacks(f"A posterior of kind '{self.kind}' has no covariance to draw from or to scale by tau.")

    def covariance(self, jacobians: Params) -> Tensor:
        """(B, C, C) covariance of the linearised logits, J Sigma J^T, from Jacobians (B, C, *shape) by parameter.

        Parameters that the posterior has no variance for count as known; Jacobians need not name them.
        """
        raise Lacks(f"A posterior of kind '{self.kind}' has no covariance to carry to the logits.")

    def to(self: P, device: torch.device) -> P:
        """The same posterior on a device."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        moved = {f.name: {n: t.to(device) for n, t in getattr(self, f.name).items()} for f in fields}
        return type(self)(**moved)

    def save(self, file: Path) -> None:
        """Write the tensors and the kind to a safetensors file."""
        from safetensors.torch import save_file

        # by value: which of them share memory is not part of a posterior, and safetensors refuses it
        copies = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in pack(self).items()}
        save_file(copies, file, metadata={"kind": self.kind})


def load_posterior(file: Path) -> Posterior:
    """The posterior in a safetensors file.

    Raises:
        ValueError: the file is damaged, or of a kind that no loaded module defines.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as stored:
            kind = stored.metadata()["kind"]
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (a file handle, not a dict)
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}): delete its folder and run the grid again.") from error
    if kind not in _kinds:
        raise ValueError(f"{file} holds a posterior of kind '{kind}': load the plug-in that defines it (--plugin).")
    return unpack(kind, tensors)


def pack(posterior: Posterior) -> dict[str, Tensor]:
    """All tensors of a posterior by ``field/name``."""
    fields = dataclasses.fields(posterior)  # type: ignore[arg-type]
    return {f"{field.name}/{name}": t for field in fields for name, t in getattr(posterior, field.name).items()}


def unpack(kind: str, tensors: Params) -> Posterior:
    """The posterior of a kind from what :func:`pack` made of it."""
    cls = _kinds[kind]
    fields: dict[str, dict[str, Tensor]] = {f.name: {} for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name, tensor in tensors.items():
        field, _, parameter = name.partition("/")
        fields[field][parameter] = tensor
    return cls(**fields)


def flat_noise(like: Params, generator: torch.Generator) -> dict[str, Tensor]:
    """Standard normal noise in the shapes of ``like``, drawn in one go on the CPU in float32."""
    flat = torch.randn(sum(p.numel() for p in like.values()), generator=generator)
    pieces = torch.split(flat, [p.numel() for p in like.values()])
    return {name: piece.view(p.shape).to(p.device) for (name, p), piece in zip(like.items(), pieces, strict=True)}


def sum_of_squares(jacobians: Params, rooted: Callable[[str, Tensor], Tensor]) -> Tensor:
    """(B, C, C): sum over parameters of R R^T in float64, with R = ``rooted(name, J)``, J times a root of Sigma."""
    total: Tensor | float = 0.0
    for name, jacobian in jacobians.items():
        flat = rooted(name, jacobian).flatten(2)
        total = total + (flat @ flat.mT).double()
    if not isinstance(total, Tensor):
        raise ValueError("There are no Jacobians to carry a covariance with.")
    return total


@dataclasses.dataclass(frozen=True)
class Point(Posterior):
    """All mass at one value: what ordinary training finds."""

    kind: ClassVar[str] = "point"
    value: Params

    @property
    def mean(self) -> Params:
        return self.value


@dataclasses.dataclass(frozen=True)
class DiagGaussian(Posterior):
    """N(m, diag v): ``location`` m and ``variance`` v per parameter. A draw is m + sqrt(tau v) eps.

    A parameter without a variance is known: every draw has its m.
    """

    kind: ClassVar[str] = "diag_gaussian"
    location: Params
    variance: Params

    @property
    def mean(self) -> Params:
        return self.location

    @property
    def uncertain(self) -> list[str]:
        return [name for name, variance in self.variance.items() if variance.any()]

    def _draw(self, generator: torch.Generator, tau: float) -> Params:
        noise = flat_noise(self.location, generator)
        return {
            name: m + (tau * self.variance[name]).sqrt() * noise[name] if name in self.variance else m
            for name, m in self.location.items()
        }

    def covariance(self, jacobians: Params) -> Tensor:
        return sum_of_squares(jacobians, lambda name, jacobian: jacobian * self.variance[name].sqrt())


@dataclasses.dataclass(frozen=True)
class LowRankGaussian(Posterior):
    """N(m, (diag v + D D^T / (K - 1)) / 2): half diagonal, half rank K (Maddox et al. 2019, equation 1).

    ``location`` m and ``variance`` v per parameter; ``deviations`` D, K of them stacked along a first axis. A draw is
    m + sqrt(tau / 2) sqrt(v) z1 + sqrt(tau / (2 (K - 1))) D z2, with one z2 for all parameters.

    Raises:
        ValueError: fewer than two deviations.
    """

    kind: ClassVar[str] = "low_rank_gaussian"
    location: Params
    variance: Params
    deviations: Params

    def __post_init__(self) -> None:
        if self.rank < 2:
            raise ValueError(f"A low-rank Gaussian with {self.rank} deviation has no covariance: give at least 2.")

    @property
    def rank(self) -> int:
        """K, the number of deviations held."""
        return len(next(iter(self.deviations.values())))

    @property
    def mean(self) -> Params:
        return self.location

    def _draw(self, generator: torch.Generator, tau: float) -> Params:
        z1 = flat_noise(self.location, generator)
        z2 = torch.randn(self.rank, generator=generator) * (tau / (2 * (self.rank - 1))) ** 0.5
        drawn = dict(self.location)
        for name, m in self.location.items():
            if name in self.variance:
                drawn[name] = drawn[name] + (tau / 2 * self.variance[name]).sqrt() * z1[name]
            if name in self.deviations:
                drawn[name] = drawn[name] + torch.tensordot(z2.to(m), self.deviations[name], dims=1)
        return drawn


@dataclasses.dataclass(frozen=True)
class Members(Posterior):
    """M equally weighted parameter values (an ensemble, or a sampler's collection), stacked along a first axis."""

    kind: ClassVar[str] = "members"
    values: Params

    @classmethod
    def of(cls, members: list[Params]) -> Members:
        """Stack a list of parameter values."""
        if not members:
            raise ValueError("A posterior of members needs at least one: collect a sample before the fit ends.")
        return cls({name: torch.stack([member[name].detach() for member in members]) for name in members[0]})

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def __iter__(self) -> Iterator[Params]:
        for i in range(len(self)):
            yield {name: stack[i] for name, stack in self.values.items()}
