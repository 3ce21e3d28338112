"""Plug-ins that were written for version 0.1 load, train, and have the keys of today's form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BrokenPlugin
from bench.method import METHODS, get_method
from bench.registry import load_plugin
from bench.specs import RunSpec, key
from bench.store.store import Store
from bench.task import TASKS, get_task
from tests.support import bench, plan

SAMPLER = '''
from dataclasses import dataclass

import torch

from bench.data import Batch
from bench.method import Method
from bench.options import fit_option, predict_option
from bench.posterior import DiagGaussian, Members
from bench.registry import register_method, register_task
from bench.task import LETTERS, Example, Task
from bench.train import FitJob, Snapshots, constant
from methods.adamw import AdamW

NAMES = ("red", "green", "blue")


@register_task
class EarlierColours(Task):
    name, title = "earlier_colours", "Colours"
    source, revision, licence = "generated", "1", "CC0"
    answers = LETTERS[:3]
    rows = {"train": 24, "validation": 9}

    def generate(self, split):
        return ({"name": NAMES[i * 7 % 3], "count": i} for i in range(self.rows[split]))

    def example(self, row):
        listed = " ".join(f"{letter}. {name}." for letter, name in zip(LETTERS, NAMES, strict=False))
        return Example(f"Which is {row.text('name')} ({row['count']})? {listed} Answer:", row.position("name", NAMES))


@register_method
@dataclass(frozen=True, kw_only=True)
class EarlierSampler(Method):
    """Keeps every second step."""

    name, title = "earlier_sampler", "Sampler"
    lr: float = fit_option(1, "step size", least=0)
    kind: str = fit_option("even", "which steps", ("even", "odd"))
    count: int = predict_option(2, "draws", least=1)

    def fit(self, job: FitJob):
        samples, params = Snapshots(), job.model.params

        def after_step(step):
            if step % 2 == (self.kind == "odd"):
                samples.add(params)

        optimizer = torch.optim.SGD(list(params.values()), lr=self.lr)
        job.train(optimizer, schedule=constant, after_step=after_step, state={"samples": samples})
        return Members.of(samples.values)

    def draw(self, job):
        return list(job.posterior)[-self.count :]


@register_method
@dataclass(frozen=True, kw_only=True)
class Isotropic(AdamW):
    """AdamW's mean and one variance for all: tensors of one shape are one object. The suite took the name later."""

    name, title = "isotropic", "One variance"
    sd: float = fit_option(0.01, "standard deviation", least=0)

    def fit(self, job: FitJob):
        job.train(self.optimizer(job, self.weight_decay))
        mean = job.model.snapshot()
        shared = {}
        return DiagGaussian(
            mean, {n: shared.setdefault(m.shape, torch.full(m.shape, self.sd**2)) for n, m in mean.items()}
        )
'''

TAKEN = """
from dataclasses import dataclass
from bench.registry import register_method
from methods.mc_dropout import McDropout

@register_method
@dataclass(frozen=True, kw_only=True)
class Mine(McDropout):
    name, title = "mc_dropout", "Mine"
"""


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a test registers is gone after it."""
    for registry in (METHODS, TASKS):
        registry.names()
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))  # type: ignore[attr-defined]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield


def test_a_plugin_of_version_0_1_loads_trains_and_says_what_has_moved(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "earlier_plugin.py").write_text(SAMPLER)
    with pytest.warns(DeprecationWarning) as warned:
        load_plugin("earlier_plugin")
    said = {str(one.message) for one in warned}
    assert "bench.registry.register_task has moved: import register_task from bench.task." in said
    assert "bench.train.Snapshots has moved: import Snapshots from bench.train.checkpoint." in said
    assert any(
        text.startswith("fit_option: declare hyperparameters as Annotated[float, Fit('step size')]") for text in said
    )
    assert {one.filename for one in warned} == {str(tmp_path / "earlier_plugin.py")}  # where its author looks
    assert [(one.name, one.reader) for one in get_method("earlier_sampler").hyperparameters().values()] == [
        ("lr", "fit"),
        ("kind", "fit"),
        ("count", "predict"),
    ]
    with pytest.raises(ValueError, match=r"earlier_sampler\.count is 0: must be at least 1"):
        get_method("earlier_sampler").make({"count": 0})
    with pytest.raises(ValueError, match=r"earlier_sampler\.kind is 'evn'\. Did you mean 'even'"):
        get_method("earlier_sampler").make({"kind": "evn"})
    assert get_task("earlier_colours").answers == ("A", "B", "C")
    arguments = ["--seed", "1", "--set", "steps=4", "--plugin", "earlier_plugin", "--runs", "runs"]
    for method in ("earlier_sampler", "isotropic"):
        bench("run", "--method", method, "--task", "earlier_colours", *arguments, cwd=tmp_path)
    kinds = {type(Store(tmp_path / "runs").posterior(spec.fit)).__name__ for spec in stored(tmp_path / "runs")}
    assert kinds == {"Members", "DiagGaussian"}


def stored(runs: Path) -> list[RunSpec]:
    from bench.store.records import read_record

    return [read_record(folder).spec for folder in sorted((runs / "evals").iterdir())]


def test_a_name_that_the_suite_took_later_stays_the_plugin_s(tmp_path: Path, caplog: Any) -> None:
    ours = key(plan("isotropic"))
    (tmp_path / "earlier_named.py").write_text(SAMPLER)
    load_plugin("earlier_named")
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == (
        "The method 'isotropic' is that of earlier_named.Isotropic here, and not methods.isotropic.Isotropic."
    )
    assert key(plan("isotropic")) != ours


def test_a_name_whose_key_could_mean_either_method_is_refused(tmp_path: Path) -> None:
    (tmp_path / "earlier_taken.py").write_text(TAKEN)
    with pytest.raises(BrokenPlugin, match="Two methods are named 'mc_dropout'"):
        load_plugin("earlier_taken")


def test_the_earlier_form_of_an_option_has_the_key_of_todays(tmp_path: Path) -> None:
    text = """
from dataclasses import dataclass
from bench.method import Method, PredictJob
from bench.options import predict_option
from bench.registry import register_method

@register_method
@dataclass(frozen=True, kw_only=True)
class Softened(Method):
    name, title, base = "softened", "Softened AdamW", "adamw"
    weight: float = predict_option(0.1, "share w of the uniform distribution")

    def predict(self, job):
        return job.log_probs(job.posterior.mean).unsqueeze(0)
"""
    assert get_method("softened").__module__ == "softened"  # tests/plugins/softened.py, which every test has
    keys = {key(plan("softened")), key(plan("softened", softened={"weight": 0.1}))}
    del METHODS._classes["softened"]
    (tmp_path / "earlier_softened.py").write_text(text)
    load_plugin("earlier_softened")
    assert get_method("softened").__module__ == "earlier_softened"
    assert {key(plan("softened")), key(plan("softened", softened={"weight": "0.1"}))} == keys
    assert len(keys) == 1


def test_a_name_that_never_was_there_is_an_attribute_error() -> None:
    import bench.data
    import bench.registry
    import bench.train

    for module in (bench.registry, bench.train, bench.data):
        with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'oops'"):
            module.oops  # noqa: B018  (reading it is what raises)
