"""Linear models with Gaussian noise, whose posteriors are known, trained by the real loop (bench.train.FitJob)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from bench.process.progress import Progress
from bench.specs import DataSpec, FitSpec, ModelSpec, TrainSpec, digest
from bench.train.checkpoint import Checkpointing
from bench.train.loop import FitJob


class Rows(tuple[int, ...]):
    """A batch: the numbers of its rows."""

    def split(self, pieces: int) -> Iterator[Rows]:
        size = len(self) // pieces
        return (Rows(self[i * size : (i + 1) * size]) for i in range(pieces))


class Drawn:
    """n rows, drawn with replacement: gradient noise without memory, as the theory of SGD's iterates has it."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def shuffled(self, batch_size: int, seed: int, first_step: int = 0) -> Iterator[Rows]:
        step = first_step
        while True:
            generator = torch.Generator().manual_seed(digest(seed, step))
            yield Rows(torch.randint(self.n, (batch_size,), generator=generator).tolist())
            step += 1


class ToyModel:
    """The weights w, (d,) or (K, d), in two tensors; no dropout."""

    def __init__(self, *shape: int) -> None:
        self.device, self.forwards = torch.device("cpu"), 0
        *models, d = shape
        self.params = {name: Parameter(torch.zeros(*models, part)) for name, part in (("a", d // 2), ("b", d - d // 2))}

    def dropout(self, on: bool = True) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def load(self, params: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in params.items():
                self.params[name].copy_(value)

    def snapshot(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.params.items()}


class Linear:
    """y = x w + noise of standard deviation 1; with ``white`` inputs X^T X = n I. The prior is N(0, prior_sd^2 I)."""

    def __init__(self, n: int, d: int, *, white: bool, prior_sd: float, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n, d, generator=generator, dtype=torch.float64)
        if white:
            x = torch.linalg.qr(x).Q * n**0.5
        y = x @ torch.randn(d, generator=generator, dtype=torch.float64)
        y += torch.randn(n, generator=generator, dtype=torch.float64)
        precision = x.T @ x + torch.eye(d, dtype=torch.float64) / prior_sd**2
        self.covariance = torch.linalg.inv(precision)
        self.mean = self.covariance @ (x.T @ y)
        self.x, self.y = x.float(), y.float()

    def loss(self, rows: list[int], w: Tensor) -> Tensor:
        """Half the mean squared error: minus the log likelihood of an example."""
        return ((self.y[rows] - self.x[rows] @ w) ** 2).mean() / 2

    def job(self, folder: Path, progress: Progress | None = None, **train: Any) -> ToyJob:
        """A fit of this model."""
        return job_for(self, ToyModel(self.x.shape[1]), len(self.y), folder, progress, **train)


class Linears:
    """K linear models of one size, trained at once: a step costs what a step of one does.

    No entry of the gradient depends on another model, so an optimizer that treats each entry alike but alone trains
    each model as it would without the others. Model k reads the first ``batch_sizes[k]`` rows of a batch.
    """

    def __init__(self, models: Sequence[Linear], batch_sizes: Sequence[int]) -> None:
        self.models = tuple(models)
        self.x, self.y = torch.stack([one.x for one in models]), torch.stack([one.y for one in models])
        self._sizes = torch.tensor(batch_sizes).unsqueeze(1)
        self._share = (torch.arange(max(batch_sizes)) < self._sizes) / self._sizes

    def loss(self, rows: list[int], w: Tensor) -> Tensor:
        """The sum of the models' losses."""
        error = self.y[:, rows] - (self.x[:, rows] @ w.unsqueeze(2)).squeeze(2)
        return (error**2 * self._share).sum() / 2

    def job(self, folder: Path, **train: Any) -> ToyJob:
        """A fit of all of them."""
        count, n, d = self.x.shape
        return job_for(self, ToyModel(count, d), n, folder, batch_size=int(self._sizes.max()), **train)


def job_for(
    toy: Linear | Linears, model: ToyModel, n: int, folder: Path, progress: Progress | None = None, **train: Any
) -> ToyJob:
    """A fit of ``model`` to the n rows of ``toy``."""
    spec = FitSpec(
        method="toy", version=1, options={}, data=DataSpec(task="toy", version=1, revision=""), holdout=0.0,
        model=ModelSpec(), train=TrainSpec(**train), seed=1,
    )  # fmt: skip
    return ToyJob(
        spec=spec,
        load=lambda: model,  # type: ignore[arg-type, return-value]
        encode=lambda: Drawn(n),  # type: ignore[arg-type, return-value]
        checkpointing=Checkpointing(folder / "checkpoint.safetensors"),
        progress=progress or Progress(),
        toy=toy,
    )


@dataclasses.dataclass
class ToyJob(FitJob):
    """A FitJob with the loss of a toy."""

    toy: Any = None

    def loss(self, batch: Any, params: Any = None) -> Tensor:
        found: Tensor = self.toy.loss(list(batch), torch.cat(list((params or self.model.params).values()), -1))
        return found


def flat(params: Any) -> Tensor:
    """All values in one float64 vector."""
    return torch.cat([value.detach().flatten() for value in params.values()]).double()


def of_model(params: Mapping[str, Tensor], number: int) -> Tensor:
    """All values of one of several models in one float64 vector."""
    return flat({name: value[number] for name, value in params.items()})
