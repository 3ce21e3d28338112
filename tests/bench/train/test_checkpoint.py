"""Checkpoints: continued from when they can be believed, else the training starts at step 0 and says why."""

from __future__ import annotations

import errno
import functools
import os
import random
import re
import stat
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import STEPS, compute, plan, result_bytes
from toy import Linear, ToyJob, flat

from bench.plan.runs import families
from bench.process.progress import Progress
from bench.process.stop import Stopped
from bench.run.outputs import plain
from bench.run.runner import Runner
from bench.specs import key
from bench.store.store import Store
from bench.train.checkpoint import Checkpointing, Snapshots, TrainState, check_state
from bench.train.clock import Clock
from bench.train.tree import load_tree, save_tree

NADAM = functools.partial(torch.optim.NAdam, lr=0.1)
TOY = Linear(16, 4, white=True, prior_sd=1.0)


class Collected:
    """Counts steps, as a method's own state."""

    def __init__(self) -> None:
        self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Any) -> None:
        self.steps = state["steps"]


def train(job: ToyJob, make: Any = None) -> torch.Tensor:
    """Train the toy with a method that keeps snapshots and a count; the weights, once every part agrees."""
    snapshots, collected = Snapshots(), Collected()

    def after_step(done: int) -> None:
        snapshots.add(job.model.params)
        collected.steps += 1

    extras = {"snapshots": snapshots, "collected": collected}
    make = make or functools.partial(torch.optim.AdamW, lr=0.1)
    job.train(make(list(job.model.params.values())), after_step=after_step, state=extras)
    assert len(snapshots.values) == collected.steps == job.spec.train.steps
    return flat(job.model.params)


def stopped(folder: Path, at: int = 3, **checkpointing: Any) -> Path:
    """The checkpoint of a training of 8 steps that was asked to stop after step ``at``."""
    job = TOY.job(folder, steps=8)
    job.checkpointing = Checkpointing(folder / "checkpoint.safetensors", stop=lambda: "told" if job.step == at else "")
    for name, value in checkpointing.items():
        setattr(job.checkpointing, name, value)
    with pytest.raises(Stopped, match=f"told: stopped after step {at}"):
        train(job)
    return job.checkpointing.file


def resumed(folder: Path, **checkpointing: Any) -> tuple[torch.Tensor, int]:
    """(weights, first step of the attempt) of a training that continues in ``folder``."""
    job, first = TOY.job(folder, steps=8), list[int]()
    job.checkpointing.began = first.append
    for name, value in checkpointing.items():
        setattr(job.checkpointing, name, value)
    return train(job), first[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """The weights of a training that nobody stopped."""
    return train(TOY.job(tmp_path_factory.mktemp("whole"), steps=8))


def test_a_training_continues_from_its_last_step(tmp_path: Path, whole: torch.Tensor) -> None:
    stopped(tmp_path)
    weights, first = resumed(tmp_path)
    assert first == 3 and torch.equal(weights, whole)


def test_bits_flipped_in_a_checkpoint_cost_its_work_and_nothing_else(
    tmp_path: Path, whole: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    file, moments = stopped(tmp_path), random.Random(5)
    content = file.read_bytes()
    for bit in moments.sample(range(8 * len(content)), 12):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        caplog.clear()
        weights, first = resumed(tmp_path)
        assert torch.equal(weights, whole)
        said = [record.getMessage() for record in caplog.records]
        assert first == 3 or re.search(r"is damaged .*: training starts from step 0", said[0])


@pytest.mark.parametrize(
    ("said", "spoil"),
    [
        ("it belongs to fit 0123456789abcdef", lambda tree: {**tree, "fit": "0123456789abcdef"}),
        ("is damaged", lambda tree: [1, 2]),
        ("KeyError: 'adapters'", lambda tree: {name: value for name, value in tree.items() if name != "adapters"}),
        ("a parameter of shape (1,), not (2,)", lambda t: {**t, "parameters": [p[:1] for p in t["parameters"]]}),
        ("argument 2 is shorter", lambda tree: {**tree, "parameters": tree["parameters"][:1]}),
        ("KeyError: 'collected'", lambda tree: {**tree, "extras": {"snapshots": tree["extras"]["snapshots"]}}),
        ("invalid literal", lambda tree: {**tree, "step": "x"}),
    ],
)
def test_a_checkpoint_that_does_not_fit_leaves_nothing_behind(
    said: str, spoil: Callable[[Any], Any], tmp_path: Path, whole: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    file = stopped(tmp_path)
    save_tree(spoil(load_tree(file)), file)
    weights, first = resumed(tmp_path)
    assert first == 0 and torch.equal(weights, whole)
    (record,) = caplog.records
    assert said in record.getMessage() and record.getMessage().endswith(": training starts from step 0.")


def test_a_checkpoint_of_another_optimizer_does_not_fit(tmp_path: Path) -> None:
    plain = train(TOY.job(tmp_path / "plain", steps=8), NADAM)
    stopped(tmp_path)
    assert torch.equal(train(TOY.job(tmp_path, steps=8), NADAM), plain)


@pytest.mark.parametrize(
    ("before", "now", "named"),
    [
        ({"code": "a"}, {"code": "b"}, "code"),
        ({"code": "a", "torch": "2.6"}, {"code": "a", "torch": "2.7"}, "torch"),
        ({}, {"code": "a"}, "code"),
    ],
)
def test_other_code_starts_at_step_0(
    before: Any, now: Any, named: str, tmp_path: Path, whole: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    stopped(tmp_path, code=before)
    weights, first = resumed(tmp_path, code=now)
    assert first == 0 and torch.equal(weights, whole)
    assert f"written with other code (changed since: {named})" in caplog.records[0].getMessage()


def test_the_same_code_continues(tmp_path: Path) -> None:
    stopped(tmp_path, code={"code": "a"})
    assert resumed(tmp_path, code={"code": "a"})[1] == 3


def test_a_checkpoint_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    job = TOY.job(tmp_path, steps=2)
    job.checkpointing.every_seconds = 0
    before = os.umask(0o027)
    try:
        train(job)
    finally:
        os.umask(before)
    assert stat.S_IMODE(job.checkpointing.file.stat().st_mode) == 0o640
    assert [file.name for file in tmp_path.iterdir()] == [job.checkpointing.file.name]


def test_a_checkpoint_that_cannot_be_read_now_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = TOY.job(tmp_path, steps=2)
    job.checkpointing.every_seconds = 0
    train(job)
    before = job.checkpointing.file.read_bytes()
    opened = Path.open

    def refused(self: Path, *args: Any, **options: Any) -> Any:
        if self == job.checkpointing.file:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return opened(self, *args, **options)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(PermissionError, match="Permission denied"):
        train(TOY.job(tmp_path, steps=2))
    monkeypatch.undo()
    assert job.checkpointing.file.read_bytes() == before


def test_a_checkpoint_is_written_only_when_it_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    monkeypatch.setattr(Checkpointing, "save", lambda self, state: saved.append(state.step))
    train(TOY.job(tmp_path, steps=8))
    assert saved == []
    job = TOY.job(tmp_path, steps=8)
    job.checkpointing.every_seconds = 0
    train(job)
    assert saved == [1, 2, 3, 4, 5, 6, 7]  # not after the last step: the posterior follows


def test_a_damaged_checkpoint_of_a_family_costs_its_work_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = plan("adamw")
    whole = compute(run, tmp_path / "whole")

    class Killed(BaseException):
        pass

    class Kill(Progress):
        def step(self, done: int) -> None:
            if done == STEPS // 2:
                raise Killed

    store = Store(tmp_path / "hurt")
    with pytest.raises(Killed):
        Runner(store=store, checkpoint_seconds=0).run(families([run])[0], Kill())
    file = store.work(run.fit) / "checkpoint.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 4
    file.write_bytes(content)
    compute(run, tmp_path / "hurt")
    assert any("is damaged" in record.getMessage() for record in caplog.records)
    assert result_bytes(store, run) == result_bytes(whole, run)
    assert [attempt["from_step"] for attempt in store.fit_facts(run.fit)["attempts"]] == [0, 0]
    assert key(run.fit) == store.folder(run.fit).name


def test_state_that_no_checkpoint_can_hold_is_refused_before_the_first_step() -> None:
    check_state({"kept": Snapshots()})
    with pytest.raises(TypeError, match=r"^job.train was given state 'average', a dict: use an object with state_dict"):
        check_state({"kept": Snapshots(), "average": {"a": torch.zeros(2)}})


def test_what_a_method_notes_along_the_way_survives_a_kill(tmp_path: Path) -> None:
    def noted(job: ToyJob) -> tuple[dict[str, Any], list[str]]:
        job.warnings.append("before")
        history = job.facts["history"] = []
        job.facts["norms"] = torch.zeros(2)

        def after_step(done: int) -> None:
            history.append(done)
            job.facts["norms"] += 1
            if done == 2:
                odd: Any = {
                    ("q", 0): 1.0,
                    np.int64(3): torch.eye(2).to_sparse(),
                    "z": torch.zeros(2, dtype=torch.cfloat),
                }
                odd |= {"day": np.datetime64("2024-01-01"), "f8": torch.ones(2).to(torch.float8_e4m3fn)}
                job.facts.update(early=1.5, values=torch.ones(2), odd=odd)
                job.warnings.append("at step 2")
                job.warnings.append(ValueError("no text"))  # type: ignore[arg-type]  # an author's slip

        job.train(torch.optim.SGD(list(job.model.params.values()), lr=0.1), after_step=after_step)
        facts, _ = plain(job.facts, "m")
        return facts, list(map(str, job.warnings))

    whole = noted(TOY.job(tmp_path / "whole", steps=8))
    job = TOY.job(tmp_path / "cut", steps=8)
    job.checkpointing.stop, job.checkpointing.every_seconds = lambda: "enough" if job.step >= 5 else "", 0
    with pytest.raises(Stopped):
        noted(job)
    assert noted(TOY.job(tmp_path / "cut", steps=8)) == whole
    facts, warnings = whole
    assert warnings == ["before", "at step 2", "no text"] and facts["history"] == list(range(1, 9))
    assert facts["values"] == [1.0, 1.0] and facts["norms"] == [8.0, 8.0]
    assert facts["odd"].keys() == {"('q', 0)", "3", "z", "day", "f8"} and facts["odd"]["f8"] == [1.0, 1.0]


def test_the_steps_of_adam_stay_on_the_cpu_and_other_state_goes_to_its_adapter(tmp_path: Path) -> None:
    """Adam reads its steps on the host: on a device each of them would be waited for."""
    adapter = torch.nn.Parameter(torch.zeros(2, device="meta"))
    model: Any = types.SimpleNamespace(params={"a": adapter}, device=torch.device("cpu"))  # stands in for one on a GPU
    optimizer, clock = torch.optim.AdamW([adapter]), Clock(torch.device("cpu"))
    state = TrainState("f", model, optimizer, [adapter], {}, clock, [], {}, [], torch.zeros(()))
    placed = state._placed({"values": [{"a": torch.zeros(2)}], "count": 3, "other": torch.zeros(1)})
    assert placed["values"][0]["a"].device.type == "meta" and placed["other"].device.type == "cpu"
    state.optimizer.load_state_dict(
        {
            "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}},
            "param_groups": state.optimizer.state_dict()["param_groups"],
        }
    )
    held = state.optimizer.state[adapter]
    assert held["step"].device.type == "cpu" and held["exp_avg"].device.type == "meta"
