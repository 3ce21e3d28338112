"""What every registered method must keep, a new one without a line here. `--bench-plugin MODULE` adds yours."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import STEPS, bench, compute, plan, result_bytes, run_on_loaded

from bench.data.splits import DataSource, load_split
from bench.method import PredictJob, get_method, method_names
from bench.metrics import EXCESS_NLL
from bench.metrics import METRICS as MEASURED
from bench.model.choice_model import ChoiceModel, load_model
from bench.options import Hyperparameter
from bench.plan.runs import families
from bench.posterior import load_posterior
from bench.process.progress import Progress
from bench.run.exports.offer import departure, make_offer
from bench.run.runner import Runner
from bench.run.stored import Result
from bench.specs import FitSpec, RunSpec, key, seed_for
from bench.store.store import Store
from bench.task import get_task
from methods.scaled import mixed

METHODS = method_names()
TASK = "few_four"


FEW = {"draws": 3, "masks": 3, "search_draws": 3, "points": 3, "width": 1.0, "evidence_steps": 10}


def few(name: str) -> RunSpec:
    """A run of a few steps and, where the method has draws or a search, a few of those."""
    known = get_method(name).hyperparameters()
    fitting = {option: value for option, value in FEW.items() if option in known and castable(known[option], value)}
    return plan(name, TASK, **{name: fitting})


class Stored(dict[str, tuple[Store, RunSpec]]):
    """A run of a few steps by method, each computed when a test asks for it: a broken one breaks only its own tests."""

    def __init__(self, runs: Path, fresh: bool = False) -> None:
        super().__init__()
        self._runs, self._fresh = runs, fresh

    def __missing__(self, name: str) -> tuple[Store, RunSpec]:
        run = few(name)
        self[name] = (compute(run, self._runs, self._fresh), run)
        return self[name]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Store, RunSpec]]:
    return Stored(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Store, RunSpec]]:
    """The same runs in a store of their own, each on a base that was just loaded."""
    return Stored(tmp_path_factory.mktemp("again"), fresh=True)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose trainings were all killed."""
    return tmp_path_factory.mktemp("cut")


@pytest.fixture(scope="module")
def model() -> ChoiceModel:
    return load_model(plan("adamw", TASK).fit.model, None, torch.device("cpu"))


def job_for(run: RunSpec, store: Store, model: ChoiceModel, batch_size: int = 32) -> PredictJob:
    task = get_task(TASK)
    model.prepare(task.answers, seed_for(run, "init"))
    return PredictJob(
        posterior=store.posterior(run.fit),
        examples=load_split(get_task(TASK), run.split, DataSource()).examples[:15],
        answers=task.answers,
        generator=torch.Generator().manual_seed(seed_for(run, "predict")),
        batch_size=batch_size,
        load=lambda: model,
        max_length=320,
    )


@pytest.mark.parametrize("name", METHODS)
def test_predictions_are_distributions(name: str, stored: dict[str, tuple[Store, RunSpec]]) -> None:
    store, run = stored[name]
    found = store.predictions(run)
    draws, count, choices = found["log_probs"].shape
    assert draws >= 1 and count == len(found["labels"]) == get_task(TASK).rows["validation"] and choices == 4
    np.testing.assert_allclose(np.exp(found["log_probs"].astype(np.float64)).sum(-1), 1.0, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_same_spec_gives_the_same_bytes(
    name: str, stored: dict[str, tuple[Store, RunSpec]], again: dict[str, tuple[Store, RunSpec]]
) -> None:
    store, run = stored[name]
    assert result_bytes(again[name][0], run) == result_bytes(store, run)


class Killed(BaseException):
    pass


class KillHalfway(Progress):
    """Kills every training that starts at step 0 in its middle, and lets it continue."""

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self.armed = stage == "train" and done == 0

    def step(self, done: int) -> None:
        if self.armed and done == STEPS // 2:
            raise Killed


def chain(fit: FitSpec) -> dict[str, FitSpec]:
    """A fit and all that it starts from, by key."""
    found = {key(fit): fit}
    for base in fit.bases:
        found |= chain(base)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_trainings_that_are_killed_continue_to_the_same_bytes(
    name: str, stored: dict[str, tuple[Store, RunSpec]], cut: Path
) -> None:
    store, run = stored[name]
    (family,) = families([run])
    fits = chain(run.fit).values()
    before = [fit for fit in fits if Store(cut).has(fit)]  # killed, too: methods with one base share its training
    kills = 0
    while not Store(cut).has(run):
        try:
            run_on_loaded(Runner(store=Store(cut), checkpoint_seconds=0), family, KillHalfway())
        except Killed:
            kills += 1
            assert kills < 20
    found = Store(cut)
    assert result_bytes(found, run) == result_bytes(store, run)
    trained = [fit for fit in fits if found.fit_facts(fit)["steps"]]
    killed = [fit for fit in trained if fit not in before]
    assert kills == len(killed), "one kill in each training that the method's posterior comes from"
    for facts in map(found.fit_facts, trained):
        assert [attempt["from_step"] for attempt in facts["attempts"]] == [0, STEPS // 2 - 1]


@pytest.mark.parametrize("name", METHODS)
def test_predictions_do_not_depend_on_the_batch_size(
    name: str, stored: dict[str, tuple[Store, RunSpec]], model: ChoiceModel
) -> None:
    store, run = stored[name]
    method = get_method(name).make(run.options)
    one, seven = (method.predict(job_for(run, store, model, size)) for size in (1, 7))
    torch.testing.assert_close(one, seven, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_predict_leaves_weights_and_modes_as_they_were(
    name: str, stored: dict[str, tuple[Store, RunSpec]], model: ChoiceModel
) -> None:
    store, run = stored[name]
    method = get_method(name).make(run.options)

    def state() -> str:
        parts = [p.detach().numpy().tobytes() for p in model.params.values()]
        modes = bytes(m.training for m in model._module.modules())
        return hashlib.sha256(b"".join(parts) + modes).hexdigest()

    job = job_for(run, store, model)
    before = state()
    method.predict(job)
    assert state() == before

    class Broken(Exception):
        pass

    def fail(count: int) -> None:
        raise Broken

    job = job_for(run, store, model)
    job.progress = fail
    if method.uses_model:
        with pytest.raises(Broken):
            method.predict(job)
    assert state() == before


@pytest.mark.parametrize("name", METHODS)
def test_a_posterior_saved_is_the_posterior_loaded(
    name: str, stored: dict[str, tuple[Store, RunSpec]], tmp_path: Path
) -> None:
    store, run = stored[name]
    file = store.folder(run.fit) / "posterior.safetensors"
    load_posterior(file).save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def exported(folder: Path) -> dict[str, torch.Tensor]:
    """The adapter in a folder."""
    return load_file(folder / "adapter_model.safetensors")


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("part", ["fit", "evaluation"])
@pytest.mark.parametrize("name", METHODS)
def test_an_export_of_draws_writes_them_or_says_why_not_and_what_it_advises_works(
    name: str, part: str, stored: dict[str, tuple[Store, RunSpec]], tmp_path: Path
) -> None:
    store, run = stored[name]
    command = ("export", key(run if part == "evaluation" else run.fit), "--runs", str(store.root), "--out")
    refused = bench(*command, "draws", "--draws", "2", cwd=tmp_path, check=None).stderr
    plain = bench(*command, "mean", cwd=tmp_path, check=None).stderr
    has_draws, has_mean = (tmp_path / "draws").is_dir(), (tmp_path / "mean").is_dir()
    if has_draws:
        one, other = (exported(tmp_path / f"draws/draws/00{number}") for number in range(2))
        assert differ(one, other)
        if has_mean:
            mean = exported(tmp_path / "draws")
            assert differ(one, mean) and differ(other, mean) and not differ(mean, exported(tmp_path / "mean"))
    else:
        assert bench(*command, "draws", "--draws", "2", cwd=tmp_path, check=2).stderr.startswith("bench: ")
        assert bench(*command, "draws", "--draws", "1", cwd=tmp_path, check=2).stderr.startswith("bench: ")
        assert "'" in refused and has_mean == ("eave --draws out" in refused)
    if not has_mean:
        assert bench(*command, "mean", cwd=tmp_path, check=2).stderr.startswith("bench: ")
        assert has_draws == ("--draws N" in plain)


@pytest.mark.parametrize("name", METHODS)
def test_an_export_says_when_its_adapters_do_not_give_the_stored_predictions(
    name: str, stored: dict[str, tuple[Store, RunSpec]], model: ChoiceModel
) -> None:
    store, run = stored[name]
    log_probs = torch.from_numpy(store.predictions(run)["log_probs"])[:, :15]
    wanted = mixed(log_probs)
    result, job = Result(store, run.fit, run), job_for(run, store, model)
    for count in (0, len(log_probs)):
        try:
            offer = make_offer(result, count, None)
        except ValueError:
            continue  # nothing to export: another test's
        assert offer.recipe.temperature_of_average == 1
        values = offer.draws or [value for value in [offer.mean] if value is not None]
        at = torch.stack([job.log_probs(value).double() for value in values])
        found = mixed((at / offer.recipe.temperature).log_softmax(-1))
        assert torch.allclose(found, wanted, atol=1e-5, rtol=0) == (not departure(result, offer))


def castable(one: Hyperparameter, value: Any) -> bool:
    """Whether ``value`` is one that the hyperparameter can be set to."""
    try:
        one.cast(value, one.name)
    except ValueError:
        return False
    return True


def others(one: Hyperparameter) -> list[Any]:
    """Values that the hyperparameter can be set to, other than its default."""
    near = [one.default + 1, one.default / 2] if type(one.default) in (int, float) else []
    tried = (*one.choices, 3, 0.5, 1, True, False, *near, "x", ["x"], [1], None, 1000)
    return [value for value in tried if castable(one, value) and one.cast(value, one.name) != one.default]


@pytest.mark.parametrize("name", METHODS)
def test_prediction_settings_cannot_cause_retraining(name: str) -> None:
    run = plan(name, TASK)
    for option, one in get_method(name).hyperparameters().items():
        if one.reader == "fit":
            continue
        if not others(one):
            continue  # a plug-in's, of a kind that is not known here
        other = others(one)[0]
        changed = plan(name, TASK, **{name: {option: other}})
        assert key(changed.fit) == key(run.fit)
        assert key(changed) != key(run)


@pytest.mark.parametrize("name", METHODS)
def test_methods_with_one_seed_share_batches_and_adapters(name: str) -> None:
    run, other = plan(name, TASK), plan("adamw", TASK)
    for stream in ("data", "init", "train", "holdout", "predict"):
        assert seed_for(run, stream) == seed_for(other, stream)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_explains_itself(name: str) -> None:
    cls = get_method(name)
    assert cls.title and cls.__doc__ and dataclasses.is_dataclass(cls)
    assert all(len(one.doc) > 3 for one in cls.hyperparameters().values())
    assert cls.base is None or get_method(cls.base)


@pytest.mark.parametrize("name", METHODS)
def test_the_record_is_complete(name: str, stored: dict[str, tuple[Store, RunSpec]]) -> None:
    store, run = stored[name]
    record = store.record(run)
    assert record.spec == run and record.facts["status"] == "done"
    assert set(record.metrics) == {*MEASURED, EXCESS_NLL.name}
    assert record.facts["examples"]["scored"] == get_task(TASK).rows["validation"]
    for part in ("train", "posterior"):
        assert record.facts["fit"]["seconds"][part] >= 0
    json.dumps(record.facts, allow_nan=False)


@pytest.fixture(autouse=True)
def _no_leftovers() -> Iterator[None]:
    yield
    assert torch.is_grad_enabled()
