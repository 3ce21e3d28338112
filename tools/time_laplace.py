"""Laplace from adapters to probabilities: the suite against laplace-torch with its defaults, on the same adapters.

    python -m tools.time_laplace [--train 64] [--test 32] [--rounds 3] [--json FILE]

Both sides fit the curvature of all adapters of the embedded base, with prior precision 1, and predict with the
linearised predictive and its probit link, laplace-torch's default. The notes have one length: laplace-torch counts pads
otherwise. The probabilities are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.data.batches import Encoded
from bench.data.splits import DataSource, load_split
from bench.method import FitJob, Method, PredictJob, get_method
from bench.model.choice_model import ChoiceModel, load_model
from bench.posterior import Point, Posterior
from bench.specs import DataSpec, FitSpec, ModelSpec, TrainSpec
from bench.task import get_task
from bench.train.checkpoint import Checkpointing
from tools.timing import Ratio, report, take_turns

TASK, MAX_LENGTH, TARGET, TOLERANCE = get_task("notes_four"), 320, 0.15, 1e-4
FIELDS = ("input_ids", "attention_mask", "position_ids", "labels")
METHODS = {"la_kfac": "KFAC", "la_diag": "diagonal"}


class Whole(nn.Module):
    """The model with its adapters as laplace-torch takes it."""

    def __init__(self, model: ChoiceModel) -> None:
        super().__init__()
        self.inner = model._module

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = self.inner(**{name: x[name] for name in FIELDS[:3]}, use_cache=False).logits[:, -1]
        return logits


class Loader:
    """Batches as dictionaries, with the ``dataset`` that laplace-torch counts."""

    def __init__(self, data: Encoded, batch_size: int) -> None:
        self.dataset, self._batch_size = data, batch_size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(self.dataset), self._batch_size):
            batch = self.dataset.batch(range(start, min(start + self._batch_size, len(self.dataset))))
            yield {name: getattr(batch, name) for name in FIELDS}


def theirs(name: str, model: ChoiceModel, train: Encoded, test: Encoded) -> Tensor:
    """(N, C) probabilities by laplace-torch with its default backend."""
    from laplace.baselaplace import DiagLaplace, KronLaplace

    kind: Any = {"la_kfac": KronLaplace, "la_diag": DiagLaplace}[name]
    laplace = kind(Whole(model), "classification")
    laplace.fit(Loader(train, TrainSpec().batch_size))
    return torch.cat([laplace(x) for x in Loader(test, 32)]).detach()


def ours(name: str, model: ChoiceModel, train: Encoded, test: Encoded) -> Tensor:
    """(N, C) probabilities by the suite's method."""
    method = get_method(name).make({"prior_precision": 1.0, "link": "probit"})
    return predict(method, fit(method, model, train), model, test)[0].exp()


def fit(method: Method, model: ChoiceModel, train: Encoded) -> Posterior:
    """The posterior of a method that starts from the model's present adapters."""
    spec = FitSpec(
        method=method.name, version=1, options={}, data=DataSpec(task=TASK.name, version=1, revision=""), holdout=0.0,
        model=model.spec, train=TrainSpec(), seed=1,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        checkpointing = Checkpointing(Path(folder) / "checkpoint")
        return method.fit(FitJob(spec, lambda: model, lambda: train, checkpointing, starts=(Point(model.snapshot()),)))


def predict(
    method: Method, posterior: Posterior, model: ChoiceModel, test: Encoded, answers: tuple[str, ...] = TASK.answers
) -> Tensor:
    """(S, N, C) log-probabilities."""
    job = PredictJob(posterior, test.examples, answers, torch.Generator(), 32, lambda: model, MAX_LENGTH, _encoded=test)
    return method.predict(job)


def main(arguments: Sequence[str] | None = None) -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=int, default=64, help="examples of the curvature")
    parser.add_argument("--test", type=int, default=32, help="examples that are predicted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = load_model(ModelSpec(), None, torch.device("cpu"))
    model.prepare(TASK.answers, seed=1)
    generator = torch.Generator().manual_seed(0)
    model.load({n: p + 0.02 * torch.randn(p.shape, generator=generator) for n, p in model.params.items()})  # B is 0
    examples = load_split(TASK, "train", DataSource()).examples
    train = model.encode(examples[: options.train], MAX_LENGTH)
    test = model.encode(examples[options.train : options.train + options.test], MAX_LENGTH)
    ways: dict[str, Callable[[], Any]] = {}
    ratios = []
    for name, kind in METHODS.items():
        gap = float((theirs(name, model, train, test) - ours(name, model, train, test)).abs().max())
        if not gap < TOLERANCE:
            raise SystemExit(f"{kind}: the two sides do not predict the same: probabilities differ by {gap:.1g}.")
        for title, side in ((f"laplace-torch, {kind}", theirs), (f"suite, {kind}", ours)):
            ways[title] = lambda side=side, name=name: side(name, model, train, test)  # type: ignore[misc]
        ratios.append(Ratio(f"suite, {kind}", f"laplace-torch, {kind}", TARGET))
    seconds = take_turns(ways, options.rounds, 0, time.process_time)  # both sides ran already
    settings = {"train": options.train, "test": options.test, "threads": 1, "seconds": "of processor"}
    report(options.json, "Laplace fit and linearised predictive, embedded base", seconds, ratios, settings)


if __name__ == "__main__":
    main()
