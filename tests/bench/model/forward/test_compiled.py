"""Compiled layers against plain ones: gradients with dropout, counted compilations, failures that are told.

A backend that runs the traced graph as it is (``eager``) stands in for inductor where only tracing matters.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import bench, compute, plan, result_bytes
from tiny import CPU
from torch import Tensor

from bench.data.batches import Batch, Encoded
from bench.model.choice_model import ChoiceModel, load_model
from bench.model.forward.compiled import Compiled
from bench.specs import ModelSpec
from bench.task import Example
from bench.train.seeding import seed_global

pytestmark = pytest.mark.slow


class Counting:
    """A backend that counts its compilations, or fails at each."""

    def __init__(self, fails: bool = False, wrong: bool = False) -> None:
        self.count, self._fails, self._wrong = 0, fails, wrong

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        self.count += 1
        if self._fails:
            raise RuntimeError("no compiler here")
        if self._wrong:
            return lambda *args: tuple(2 * out for out in graph(*args))
        return graph.forward


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")  # tests/conftest.py sets it
    torch._dynamo.reset()


def base() -> ChoiceModel:
    """The embedded base with B != 0."""
    model = load_model(ModelSpec(), None, CPU)
    model.prepare(("A", "B"), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.params.values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def batches(*lengths: int) -> list[Batch]:
    """Two prompts for each length, one of them shorter."""
    found = []
    for n in lengths:
        tokens = tuple(tuple(range(5, 5 + size)) for size in (n, n - 2))
        found.append(Encoded(tokens, (Example("", 0, "a"), Example("", 1, "b")), 0, CPU, 0).batch([0, 1]))
    return found


def passes(model: ChoiceModel, batch: Batch, seed: int = 7) -> list[Tensor]:
    """Loss and gradients of a step with that seed, dropout on."""
    seed_global(seed, CPU)
    with model.dropout():
        loss = torch.nn.functional.cross_entropy(model.logits(batch), batch.labels)
    return [loss.detach(), *torch.autograd.grad(loss, list(model.params.values()))]


def test_all_layers_and_lengths_share_one_compilation() -> None:
    model, backend = base(), Counting()
    compiled = Compiled(model.compiled()._layers, backend)
    assert len(compiled._layers) > 1
    for batch in batches(6, 14, 22, 30, 38, 46):
        wanted = passes(model, batch)
        with compiled.on():
            found = passes(model, batch)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert not compiled.failed
    assert backend.count == 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_gives_the_plain_gradients_with_the_plain_dropout_masks() -> None:
    model = base()
    compiled = model.compiled()
    for batch in batches(6, 14):
        wanted, other = passes(model, batch), passes(model, batch, seed=8)
        with compiled.on():
            found, again = passes(model, batch), passes(model, batch)
        assert not compiled.failed
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
        assert all(map(torch.equal, found, again))
        assert not torch.allclose(found[1], other[1], rtol=1e-2), "dropout must be seen in the gradients"


@pytest.mark.parametrize(("flaw", "said"), [("fails", "no compiler here"), ("wrong", "their loss would be")])
def test_what_cannot_be_compiled_trains_plainly_and_says_so(
    flaw: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = plan("adamw")
    plain = compute(run, tmp_path / "plain")
    backend = Counting(**{flaw: True})
    monkeypatch.setattr(Compiled.__init__, "__defaults__", (backend,))
    tried = compute(run, tmp_path / "tried", compile=True)
    assert backend.count
    facts = tried.fit_facts(run.fit)
    assert facts["diagnostics"]["compiled"] is False
    assert any("--compile had no effect" in one and said in one for one in facts["warnings"])
    assert result_bytes(plain, run) == result_bytes(tried, run)


def test_a_training_is_compiled_and_its_key_and_masks_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, backend = plan("ivon"), Counting()
    plain = compute(run, tmp_path / "plain")
    monkeypatch.setattr(Compiled.__init__, "__defaults__", (backend,))
    compiled = compute(run, tmp_path / "compiled", compile=True)
    facts = compiled.fit_facts(run.fit)
    assert backend.count and facts["diagnostics"]["compiled"] is True and not facts["warnings"]
    assert "compiled" not in plain.fit_facts(run.fit)["diagnostics"]
    wanted, found = (store.posterior(run.fit).mean for store in (plain, compiled))
    torch.testing.assert_close(dict(found), dict(wanted), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("method", "said"), [("blob", "hooks the adapters' maps"), ("bbb", "changed nothing where")])
def test_where_it_does_not_apply_that_is_told_and_the_bytes_stay(
    method: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Compiled.__init__, "__defaults__", (Counting(),))
    run = plan(method, "colours")
    plain, tried = compute(run, tmp_path / "plain"), compute(run, tmp_path / "tried", compile=True)
    assert result_bytes(plain, run) == result_bytes(tried, run)
    assert any(said in one for one in tried.fit_facts(run.fit)["warnings"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--quantization", "int8"), "leave out one of --compile and --quantization"),
        (("--packing",), "leave out one of --compile and --packing"),
        (("--gradient-checkpointing",), "--compile and --gradient-checkpointing exclude each other"),
    ],
)
def test_what_excludes_it_is_refused_before_any_work(more: tuple[str, ...], said: str, tmp_path: Path) -> None:
    call = ("run", "--method", "adamw", "--task", "colours", "--set", "steps=2", "--device", "cpu", "--compile")
    assert said in bench(*call, *more, cwd=tmp_path, check=None).stderr
