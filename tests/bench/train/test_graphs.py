"""Graphed passes against plain ones. On a CPU a recorder that runs the pass again stands in for CUDA's graphs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.data.batches import Batch, Encoded
from bench.model.choice_model import ChoiceModel, load_model
from bench.specs import ModelSpec
from bench.task import Example
from bench.train import loop
from bench.train.graphs import CudaRecorder, GraphedLoss, Recorder, Run
from tests.support import bench, compute, result_bytes
from tests.support import plan_few as plan


class Again:
    """Replays by running; counts what was recorded."""

    recorded = 0

    def __call__(self, run: Run) -> Run:
        Again.recorded += 1
        return run


def model_and_data(device: torch.device) -> tuple[ChoiceModel, Encoded]:
    """The embedded base with B != 0, and eight prompts of two padded widths."""
    model = load_model(ModelSpec(), None, device)
    model.prepare(("A", "B"), seed=1)
    with torch.no_grad():
        for parameter in model.params.values():
            parameter.add_(0.01)
    tokens = tuple(tuple(range(5, 5 + n)) for n in (6, 7, 6, 7, 12, 11, 12, 11))
    examples = tuple(Example("", number % 2, id=str(number)) for number in range(8))
    return model, Encoded(tokens, examples, 0, device, 0)


def check(device: torch.device, record: Recorder, tolerance: float) -> None:
    model, data = model_and_data(device)
    parameters = list(model.params.values())

    def loss(batch: Batch) -> Tensor:
        return torch.nn.functional.cross_entropy(model.logits(batch), batch.labels)

    graphed = GraphedLoss(loss, parameters, record)
    for rows in ([0, 1], [2, 3], [4, 5], [6, 7], [0, 1], [5, 6]):
        with torch.no_grad():
            parameters[0].add_(0.01)  # an optimizer step: replays must see it
        batch = data.batch(rows)
        got = graphed(batch).clone()
        gradients = [p.grad.clone() for p in parameters if p.grad is not None]
        wanted = torch.autograd.grad(loss(batch), parameters)
        torch.testing.assert_close(got, loss(batch).detach(), rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(gradients, list(wanted), rtol=tolerance, atol=tolerance)
    assert len(graphed) == 2


def test_a_replayed_pass_is_the_plain_one() -> None:
    check(torch.device("cpu"), Again(), 0)


def test_a_pass_warms_up_with_a_pad_and_replays_the_batch_itself() -> None:
    """Else transformers would drop the mask of the first run and keep that of the recorded one."""
    model, data = model_and_data(torch.device("cpu"))
    batch, seen = dataclasses.replace(data.batch([0, 2]), attention_mask=torch.ones(2, 8, dtype=torch.long)), []

    def loss(held: Batch) -> Tensor:
        seen.append(bool(held.attention_mask.all()))
        return torch.nn.functional.cross_entropy(model.logits(held), held.labels)

    class Twice:
        def __call__(self, run: Run) -> Run:
            run()
            return run

    GraphedLoss(loss, list(model.params.values()), Twice())(batch)
    assert seen == [False, True]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cuda_graph_is_the_plain_pass() -> None:
    check(torch.device("cuda"), CudaRecorder(), 1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_dropout_in_a_graph_depends_on_the_seed_alone() -> None:
    device = torch.device("cuda")
    model, data = model_and_data(device)

    def loss(batch: Batch) -> Tensor:
        return torch.nn.functional.cross_entropy(model.logits(batch), batch.labels)

    with model.dropout():
        graphed = GraphedLoss(loss, list(model.params.values()), CudaRecorder())
        found = []
        for seed in (1, 1, 2, 1):  # the first call also records
            loop.seed_global(seed, device)
            found.append(float(graphed(data.batch([0, 1]))))
    assert found[0] == found[1] == found[3] != found[2]


@pytest.mark.parametrize("method", ["adamw", "ivon", "swa"])
def test_a_fit_with_graphs_is_the_fit_without(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = plan(method)
    plain = compute(run, tmp_path / "plain")
    monkeypatch.setattr(loop, "CudaRecorder", Again)
    Again.recorded = 0
    graphed = compute(run, tmp_path / "graphed", graphs=True)
    assert Again.recorded >= 1
    assert graphed.fit_facts(run.fit)["diagnostics"]["graphs"] == Again.recorded
    assert result_bytes(graphed, run) == result_bytes(plain, run)  # the stand-in draws no dropout while recording


@pytest.mark.parametrize(("method", "settings"), [("map", {}), ("adamw", {"micro_batches": 2})])
def test_steps_that_are_not_one_pass_of_the_loss_run_plainly(
    method: str, settings: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CudaRecorder", Again)
    Again.recorded = 0
    compute(plan(method, **settings), tmp_path, graphs=True)
    assert Again.recorded == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_graphs_need_a_gpu(tmp_path: Path) -> None:
    said = bench("run", "--method", "adamw", "--task", "notes_two", "--graphs", cwd=tmp_path, check=None)
    assert "--graphs records CUDA graphs, and the device is cpu" in said.stderr


def test_a_hook_on_the_gradient_of_an_adapter_is_refused() -> None:
    model, data = model_and_data(torch.device("cpu"))
    parameters = list(model.params.values())
    graphed = GraphedLoss(lambda batch: model.logits(batch).sum(), parameters, lambda run: run)
    handle = parameters[0].register_hook(lambda gradient: gradient)
    try:
        with pytest.raises(ValueError, match="would not run where a CUDA graph is replayed: leave out --graphs"):
            graphed(data.batch([0, 1]))
    finally:
        handle.remove()
