"""The runner: what fails, what goes on, what is never computed twice."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import STEPS, compute, result_bytes
from support import plan_few as plan

from bench.data.splits import DataSource, load_split
from bench.errors import ModelNotUsable
from bench.method import get_method
from bench.model.choice_model import ChoiceModel, load_model
from bench.plan.runs import count_fits, families, missing
from bench.posterior import DiagGaussian
from bench.process.progress import Progress
from bench.process.stop import Stopped
from bench.run.provenance import PeakMemory
from bench.run.runner import Runner
from bench.run.worker import Outcome, record_failure, work
from bench.specs import Family, key
from bench.store.files import DamagedRecord, NoRoom
from bench.store.store import Store
from bench.task import get_task
from bench.train.loop import FitJob


def quiet(runs: Path, **options: object) -> Runner:
    return Runner(store=Store(runs), **options)  # type: ignore[arg-type]


def family(*methods: str, **settings: object) -> Family:
    (found,) = families(plan(method, **settings) for method in methods)
    return found


def test_one_family_trains_once_for_all_that_hang_from_it(tmp_path: Path) -> None:
    runs = [plan("ivon"), plan("ivon_mean"), *(plan("ivon", ivon={"tau": tau, "draws": 2}) for tau in (0, 0.5))]
    (one,) = families(runs)
    assert count_fits(runs) == {"ivon": 1} and len(one.runs) == 4
    quiet(tmp_path).run(one)
    assert len(list((tmp_path / "fits").glob("[0-9a-f]*"))) == 1


def test_ivon_at_tau_zero_is_ivon_at_the_mean_exactly(tmp_path: Path) -> None:
    runs = [plan("ivon_mean"), plan("ivon", ivon={"tau": 0})]
    quiet(tmp_path).run(families(runs)[0])
    mean, zero = (Store(tmp_path).predictions(run)["log_probs"] for run in runs)
    assert mean.shape[0] == 1 and (mean == zero).all()


def test_draws_of_a_tau_sweep_scale_one_set_of_noise(tmp_path: Path) -> None:
    store = compute(plan("ivon"), tmp_path)
    posterior = store.posterior(plan("ivon").fit)
    assert isinstance(posterior, DiagGaussian)
    (one,) = posterior.draws(1, torch.Generator().manual_seed(5), tau=1.0)
    (four,) = posterior.draws(1, torch.Generator().manual_seed(5), tau=4.0)
    for name, mean in posterior.mean.items():
        torch.testing.assert_close(four[name] - mean, 2 * (one[name] - mean), rtol=1e-4, atol=1e-6)


def test_a_failing_evaluation_leaves_its_siblings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, job: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr(get_method("softened"), "predict", broken)
    pair = family("softened", "adamw")
    with pytest.raises(RuntimeError, match="no luck"):
        quiet(tmp_path).run(pair)
    store = Store(tmp_path)
    assert store.has(pair.runs[1]) and not store.has(pair.runs[0]) and len(store.failures(pair.runs[0])) == 1


def test_a_failing_fit_is_not_tried_again_for_each_sibling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def broken(self: object, job: object) -> None:
        calls.append(job)
        raise RuntimeError("no luck")

    monkeypatch.setattr(get_method("adamw"), "fit", broken)
    with pytest.raises(RuntimeError, match="no luck"):
        quiet(tmp_path).run(family("adamw", "softened"))
    assert len(calls) == 1
    store = Store(tmp_path)
    assert [len(store.failures(run)) for run in family("adamw", "softened").runs] == [1, 1]


def test_mid_run_evaluation_changes_no_byte_but_leaves_a_curve(tmp_path: Path) -> None:
    run = plan("ivon")
    plain, watched = compute(run, tmp_path / "a"), compute(run, tmp_path / "b", eval_every=3)
    assert result_bytes(plain, run) == result_bytes(watched, run)
    steps = [
        line.split('"step": ')[1].split("}")[0].split(",")[0]
        for line in (watched.folder(run.fit) / "trace.jsonl").read_text().splitlines()
        if "accuracy" in line
    ]
    assert steps == ["0", "3", "6", str(STEPS)]


def test_gradient_accumulation_is_the_whole_batch(tmp_path: Path) -> None:
    quantities = []
    for pieces in (1, 2, 4):
        run = plan("adamw", micro_batches=pieces, lora={"dropout": 0.0})
        quantities.append(compute(run, tmp_path).posterior(run.fit).mean)
    for other in quantities[1:]:
        for name, value in quantities[0].items():
            torch.testing.assert_close(other[name], value, atol=2e-6, rtol=1e-3)


def test_a_damaged_posterior_is_named_and_not_used(tmp_path: Path) -> None:
    store = compute(plan("adamw"), tmp_path)
    file = store.folder(plan("adamw").fit) / "posterior.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(DamagedRecord, match=key(plan("adamw").fit)):
        quiet(tmp_path).run(family("softened"))


def test_a_truncated_record_is_said_and_its_siblings_are_computed(tmp_path: Path) -> None:
    pair = family("softened", "adamw")
    store = compute(pair.runs[0], tmp_path)
    file = store.folder(pair.runs[0]) / "facts.json"
    file.write_bytes(file.read_bytes()[:-40])
    assert missing([pair], store, 3)[0] == [pair]
    with pytest.raises(DamagedRecord, match="its end is missing"):
        quiet(tmp_path).run(pair)
    assert store.has(pair.runs[1])


def test_a_diverging_training_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        compute(plan("adamw", adamw={"lr": 1e30}), tmp_path)


def test_a_base_that_failed_is_not_trained_again_for_what_starts_from_it(tmp_path: Path) -> None:
    bad = {"adamw": {"lr": 1e30}, "ensemble": {"members": 2}}
    shared = family("adamw", "mc_dropout", "la_diag", "ensemble", **bad)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        quiet(tmp_path).run(shared)
    base = shared.runs[0].fit
    assert len(list((tmp_path / "work" / key(base)).glob("attempt-*.json"))) == 1
    assert len(list((tmp_path / "failures").glob("*.json"))) == len(shared.runs)


def test_tuning_never_sees_the_reported_split(tmp_path: Path) -> None:
    run = plan("adamw", "notes_two", tune_share=0.25)
    store = compute(run, tmp_path)
    examples = store.record(run).facts["examples"]
    fit = store.fit_facts(run.fit)["examples"]
    assert run.split == "holdout" and examples["scored"] == 64 and fit["held_out"] == 64


def test_forward_passes_are_counted(tmp_path: Path) -> None:
    """Of training: steps x batch; of prediction: draws x examples. Mid-run evaluation is not counted."""
    run = plan("ivon", ivon={"draws": 3}, batch_size=4)
    store = compute(run, tmp_path, eval_every=4)
    facts = store.record(run).facts
    assert facts["fit"]["forward_passes"] == STEPS * 4
    assert facts["forward_passes"] == 3 * facts["examples"]["scored"]


def test_a_prompt_that_does_not_fit_is_found_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = plan("adamw")
    scored = load_split(get_task("notes_two"), run.split, DataSource()).examples
    encode = ChoiceModel.encode

    def narrow(self: ChoiceModel, examples: Any, max_length: int) -> Any:
        if examples[0].id == scored[0].id:
            raise ValueError("reads at most 3 tokens")
        return encode(self, examples, max_length)

    monkeypatch.setattr(ChoiceModel, "encode", narrow)
    with pytest.raises(ValueError, match="reads at most 3 tokens"):
        compute(run, tmp_path)
    assert not Store(tmp_path).has(run.fit) and Store(tmp_path).attempts(run.fit) == []
    assert len(Store(tmp_path).failures(run)) == 1


def test_a_base_that_cannot_be_loaded_is_tried_once_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def refuse(*_: Any) -> Any:
        tried.append(1)
        raise ModelNotUsable("no such weights")

    monkeypatch.setattr("bench.run.context.load_model", refuse)
    runs = [plan("adamw"), plan("softened")]
    with pytest.raises(ModelNotUsable, match="no such weights"):
        quiet(tmp_path).run(families(runs)[0])
    assert len(tried) == 1 and [len(Store(tmp_path).failures(run)) for run in runs] == [1, 1]


def test_a_method_that_exits_is_a_failure_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(self: Any, job: Any) -> Any:
        sys.exit("no licence")

    monkeypatch.setattr(get_method("softened"), "predict", leave)
    (family,) = families([plan("softened"), plan("adamw")])
    kind, text = work(Runner(store=Store(tmp_path)), family, lambda fraction, text: None)
    assert kind == Outcome.FAILED and "SystemExit: no licence" in text
    assert Store(tmp_path).has(plan("adamw")) and len(Store(tmp_path).failures(plan("softened"))) == 1


def test_an_error_before_the_work_is_recorded_where_work_is_left(tmp_path: Path) -> None:
    compute(plan("adamw"), tmp_path)
    (both,) = families([plan("adamw"), plan("softened")])
    with pytest.raises(SystemExit), record_failure(Store(tmp_path), both):
        sys.exit("no such plug-in")
    assert Store(tmp_path).failures(plan("adamw")) == []
    assert len(Store(tmp_path).failures(plan("softened"))) == 1


def test_who_loses_the_claim_leaves_the_family_to_the_other(tmp_path: Path) -> None:
    (one,) = families([plan("adamw", steps=100_000)])
    claim_file, theirs = Store(tmp_path).claim_file(one.key), tmp_path / "theirs"

    def steal(fraction: float, text: str) -> None:
        theirs.write_text(json.dumps({"token": "theirs", "seconds": 60}))
        theirs.replace(claim_file)

    kind, text = work(quiet(tmp_path, claim_seconds=0.4), one, steal)
    assert kind == Outcome.HELD and "another process took the claim" in text
    assert json.loads(claim_file.read_text())["token"] == "theirs" and not Store(tmp_path).failure_files()


def test_a_full_disk_is_the_error_that_is_told_and_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [plan("adamw"), plan("softened")]
    with monkeypatch.context() as patch:

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("bench.run.evaluation.write_predictions", full)
        with pytest.raises(NoRoom, match="nothing can be written: the disk is full"):
            quiet(tmp_path).run(families(runs)[0])
        assert not Store(tmp_path).failure_files()  # it does not count towards --retries
    assert not list((tmp_path / "evals").iterdir()), "no half-written result is left"
    posterior = (Store(tmp_path).folder(runs[0].fit) / "posterior.safetensors").stat().st_mtime_ns
    quiet(tmp_path).run(families(runs)[0])
    assert all(Store(tmp_path).has(run) for run in runs)
    assert (Store(tmp_path).folder(runs[0].fit) / "posterior.safetensors").stat().st_mtime_ns == posterior


@pytest.mark.parametrize("method", ["adamw", "temperature", "la_diag", "ivon"])
def test_loading_and_tokenising_are_in_no_figure(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the order of events, not by a clock: nothing is loaded or tokenised after memory and time begin."""
    events: list[str] = []

    def noted(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            events.append(name)
            return inner(*arguments, **options)

        return call

    monkeypatch.setattr("bench.run.context.load_model", noted("load", load_model))
    monkeypatch.setattr(ChoiceModel, "encode", noted("encode", ChoiceModel.encode))
    for module in ("fitting", "evaluation"):
        monkeypatch.setattr(f"bench.run.{module}.PeakMemory", noted("clock", PeakMemory))
    monkeypatch.setattr(Store, "publish", noted("end", Store.publish))
    quiet(tmp_path).run(family(method))
    assert events[:2] == ["load", "encode"] and {"clock", "end"} <= set(events)
    for place, event in enumerate(events):
        if event == "clock":
            assert events[place + 1] == "end"


def test_what_follows_the_training_is_the_posteriors_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = compute(plan("adamw"), tmp_path / "plain").fit_facts(plan("adamw").fit)["seconds"]
    assert 0 <= plain["posterior"] < plain["train"]
    fit = get_method("adamw").fit

    def slow(self: Any, job: FitJob) -> Any:
        found = fit(self, job)
        time.sleep(0.4)
        return found

    monkeypatch.setattr(get_method("adamw"), "fit", slow)
    seconds = compute(plan("adamw"), tmp_path / "slow").fit_facts(plan("adamw").fit)["seconds"]
    assert seconds["posterior"] >= 0.4


def _stop_after(steps: int) -> tuple[Progress, Callable[[], str]]:
    """A progress that watches the steps, and the reason to stop once there were enough."""
    reason = []

    class Watching(Progress):
        def step(self, done: int) -> None:
            if done >= steps:
                reason.append("test")

    return Watching(), lambda: "".join(reason)


def test_damaged_attempts_cost_neither_the_training_nor_the_sound_ones(tmp_path: Path) -> None:
    run = plan("adamw")
    undisturbed = result_bytes(compute(run, tmp_path / "whole"), run)
    store, (one,) = Store(tmp_path / "runs"), families([run])
    progress, stop = _stop_after(STEPS // 2)
    with pytest.raises(Stopped):
        quiet(store.root, stop=stop).run(one, progress)
    (sound,) = store.work(run.fit).glob("attempt-*.json")
    text, first = sound.read_text(), "attempt-0-{}.json"
    place = {name: store.work(run.fit) / first.format(name) for name in ("nan", "odd", "cut", "deep", "folder", "link")}
    place["nan"].write_text(text.replace('"from_step": 0', '"from_step": NaN'))
    place["odd"].write_text('{"from_step": "x", "node": []}')
    place["cut"].write_text(text[:20])
    place["deep"].write_text("[" * 100_000)
    place["folder"].mkdir()
    place["link"].symlink_to(tmp_path / "nowhere")
    quiet(store.root).run(one)
    assert result_bytes(store, run) == undisturbed
    attempts = store.fit_facts(run.fit)["attempts"]
    assert [attempt["from_step"] for attempt in attempts] == [0, STEPS // 2]
    assert not store.work(run.fit).exists() and not store.failure_files()
