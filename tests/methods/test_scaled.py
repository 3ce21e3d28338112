"""Temperature scaling after any method, those of plug-ins too."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import compute, plan, result_bytes

from bench.method import get_method, is_method, method_names
from bench.plan.runs import families
from bench.posterior import DiagGaussian, load_posterior
from bench.process.progress import Progress
from bench.run.runner import Runner
from bench.specs import RunSpec, key
from bench.store.store import Store
from methods.scaled import Tempered, mixed
from methods.temperature import best_temperature

SETTINGS: dict[str, Any] = {
    "adamw": {"lr": 1e-2},
    "ivon": {"lr": 0.3, "ess": 1e4, "h0": 0.01, "draws": 2},
    "swag": {"draws": 2},
    "ensemble": {"members": 2},
    "mc_dropout": {"masks": 2},
    "softened": {"weight": 0.3},
    "la_diag": {"jacobian_batch": 64},
    "protocol": "clean",
}
INNER = [
    "ivon",
    "swag",
    "ensemble",
    "mc_dropout",
    "la_diag",
    "softened",
]  # one of each kind of posterior and predictive


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def computed(name: str, runs: Path) -> tuple[RunSpec, Store]:
    run = plan(name, "colours", **SETTINGS)
    return run, compute(run, runs)


@pytest.mark.parametrize("name", INNER)
def test_predictions_are_the_other_methods_over_the_stored_temperature(name: str, runs: Path) -> None:
    (run, store), (other, _) = computed(f"{name}_ts", runs), computed(name, runs)
    assert run.fit.bases == (other.fit,) and store.fit_facts(run.fit)["steps"] == 0
    posterior = store.posterior(run.fit)
    assert isinstance(posterior, Tempered) and type(posterior.posterior) is type(store.posterior(other.fit))
    logits = mixed(torch.from_numpy(store.predictions(other)["log_probs"])) / posterior.temperature
    found = store.predictions(run)["log_probs"].astype(np.float64)
    assert found.shape[0] == 1 and abs(posterior.temperature - 1) > 0.01
    np.testing.assert_allclose(found[0], logits.log_softmax(-1), atol=1e-5)


@pytest.mark.parametrize("name", ["ivon", "softened"])
def test_the_temperature_is_the_best_of_the_tuning_examples(
    name: str, runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []
    monkeypatch.setattr(
        "methods.scaled.best_temperature", lambda *given: seen.append(given) or best_temperature(*given)
    )
    run, store = computed(f"{name}_ts", tmp_path)
    ((logits, labels),) = seen
    assert len(labels) == store.fit_facts(run.fit)["diagnostics"]["tuning_examples"] == 4
    posterior = store.posterior(run.fit)
    assert isinstance(posterior, Tempered) and posterior.temperature == best_temperature(logits, labels)


def test_a_saved_posterior_is_the_loaded_one_and_repeats_its_bytes(runs: Path, tmp_path: Path) -> None:
    run, store = computed("ivon_ts", runs)
    file = store.folder(run.fit) / "posterior.safetensors"
    posterior = load_posterior(file)
    posterior.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    assert isinstance(posterior, Tempered) and isinstance(posterior.posterior, DiagGaussian)
    one, other = (p.draws(1, torch.Generator().manual_seed(0)) for p in (posterior, posterior.posterior))
    assert all(torch.equal(a, b) for a, b in zip(next(one).values(), next(other).values(), strict=True))
    assert result_bytes(compute(run, tmp_path), run) == result_bytes(store, run)


def test_a_training_beneath_it_that_is_killed_continues_to_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    class Kill(Progress):
        def step(self, done: int) -> None:
            if done == 4:
                raise Killed

    run, store = computed("ivon_ts", runs)
    (family,) = families([run])
    with pytest.raises(Killed):
        Runner(store=Store(tmp_path), checkpoint_seconds=0).run(family, Kill())
    assert result_bytes(compute(run, tmp_path, checkpoint_seconds=0), run) == result_bytes(store, run)


def test_what_it_predicts_with_is_in_its_key_and_comes_from_the_other_methods_settings() -> None:
    run = plan("ivon_ts", **SETTINGS)
    assert run.fit.options["draws"] == 2 and run.fit.options["lr"] == 0.3
    changed = plan("ivon_ts", **{**SETTINGS, "ivon": {**SETTINGS["ivon"], "tau": 0.5}})
    own = plan("ivon_ts", **SETTINGS, ivon_ts={"tau": 0.5})
    assert key(run.fit) != key(changed.fit) == key(own.fit) and run.fit.bases == changed.fit.bases
    assert "prune" not in run.fit.options, "a later option of the other method changes no key at its default"


def test_a_setting_of_the_other_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ivon_ts\.lr is 0\.1 and ivon\.lr is 0\.3: .* set ivon\.lr alone"):
        plan("ivon_ts", **SETTINGS, ivon_ts={"lr": 0.1})
    with pytest.raises(ValueError, match=r"tau is -1\.0: must be at least 0"):
        plan("ivon_ts", ivon_ts={"tau": -1})


def test_every_setting_of_the_other_fit_is_refused_later_ones_too() -> None:
    others = {bool: lambda value: not value, int: lambda value: value + 1, float: lambda value: value / 2 + 1e-3}
    tried = 0
    for name in ("ivon", "tfb", "isotropic", "swa", "la_kfac"):
        for option, one in get_method(name).hyperparameters().items():
            if one.reader == "fit" and type(one.default) in others:
                value = others[type(one.default)](one.default)
                with pytest.raises(ValueError, match=rf"^{name}_ts\.{option} is .*scales the predictions"):
                    plan(f"{name}_ts", **{f"{name}_ts": {option: value}})
                tried += 1
    assert tried > 20


def test_every_method_has_one_and_no_list_is_longer_for_it() -> None:
    for name in method_names():
        cls = get_method(f"{name}_ts")
        assert cls is get_method(f"{name}_ts") and cls.title == f"{get_method(name).title} + T"
        assert dataclasses.is_dataclass(cls) and cls.tunes and cls.base == name
    assert not any(name.endswith("_ts") for name in method_names())
    assert not is_method("ivon_ts_ts") and not is_method("ivno_ts")
    with pytest.raises(LookupError, match="There is no method 'ivno_ts'"):
        get_method("ivno_ts")


def test_after_adamw_it_is_the_temperature_row(runs: Path) -> None:
    (run, store), (row, _) = computed("adamw_ts", runs), computed("temperature", runs)
    temperatures = [store.fit_facts(one.fit)["diagnostics"]["temperature"] for one in (run, row)]
    assert temperatures[0] == pytest.approx(temperatures[1], rel=1e-6)
    found, wanted = (store.predictions(one)["log_probs"] for one in (run, row))
    apart = abs(temperatures[0] / temperatures[1] - 1) + 2 * np.finfo(np.float32).eps  # log-probabilities go as 1 / T
    np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=apart)
    resolved = np.abs(wanted) < 16  # beyond, neighbours in float32 are more than 1e-6 apart
    np.testing.assert_allclose(found[resolved], wanted[resolved], atol=1e-6)
    assert resolved.sum() >= wanted.size / 2


def test_the_choices_of_a_method_that_tunes_itself_are_made_on_examples_of_their_own() -> None:
    fits = plan("isotropic_ts").fit, plan("isotropic_ts").fit.bases[0], plan("isotropic_ts").fit.bases[0].bases[0]
    assert [fit.holdout for fit in fits] == [0.0, 0.1, 0.2]
