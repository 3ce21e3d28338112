"""Every method of the suite fits and predicts on int8 and nf4 bases, and int8 moves its predictions little."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.data.splits import DataSource
from bench.method import get_method, method_names
from bench.plan.base_model import choose_model
from bench.plan.runs import families, plan_run
from bench.posterior import load_posterior
from bench.run.runner import Runner
from bench.specs import RunSpec
from bench.store.store import Store

pytestmark = pytest.mark.slow

METHODS = [name for name in method_names() if get_method(name).__module__.startswith("methods.")]
KINDS = ("none", "int8", "nf4")
# Mean over examples of the total variation between the predictions on the int8 and on the float base (0 to 1).
INT8_BOUND = 0.005
SETTINGS = {
    "steps": 12,
    "adamw": {"lr": 3e-3},
    "map": {"lr": 3e-3},
    "swa": {"lr": 3e-3},
    "swag": {"draws": 2},
    "ivon": {"lr": 0.3, "draws": 2},
    "ivon2": {"draws": 2},
    "mc_dropout": {"masks": 2},
    "blob": {"lr": 3e-3, "draws": 2},
    "scalabl": {"lr": 3e-3, "draws": 2},
    # a narrow range: draws follow the singular vectors of B, which differ between bases after so few steps
    "tfb": {"draws": 2, "search_draws": 1, "largest": 1e-3},
    # little noise: its size follows the preconditioner, whose first values are those of single gradients
    "psgld": {"lr": 3e-4, "temperature": 1e-2, "samples": 2},
    "sgld": {"samples": 2},
    "csgld": {"samples": 4},  # one of each cycle
    "isotropic": {"draws": 2, "search_draws": 2},
    "adam_posterior": {"draws": 2, "search_draws": 2, "points": 3},
    "ensemble": {"members": 2},
    "multi_swag": {"members": 2, "draws": 1},
    "la_kfac": {"jacobian_batch": 64},
    "la_diag": {"jacobian_batch": 64},
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[tuple[str, str], RunSpec]]:
    """All methods on all kinds of base, in one store: bases are fitted once."""
    store = Store(tmp_path_factory.mktemp("runs"))
    runs = {}
    for kind in KINDS:
        model, _ = choose_model({"quantization": kind})
        for name in METHODS:
            runs[name, kind] = plan_run(
                name, "few_two", 1, settings=SETTINGS, model=model, source=DataSource(), batch_size=128
            )
    runner = Runner(store=store)
    for family in families(runs.values()):
        runner.run(family)
    return store, runs


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("name", METHODS)
def test_fits_and_predicts(name: str, kind: str, stored: tuple[Store, dict[tuple[str, str], RunSpec]]) -> None:
    store, runs = stored
    run = runs[name, kind]
    assert run.fit.model.quantization == kind
    log_probs = store.predictions(run)["log_probs"].astype(np.float64)
    np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1.0, atol=1e-5)
    posterior = load_posterior(store.folder(run.fit) / "posterior.safetensors")
    for field in vars(posterior).values():
        assert all(torch.isfinite(tensor).all() for tensor in field.values())


@pytest.mark.parametrize("name", METHODS)
def test_int8_moves_predictions_little(name: str, stored: tuple[Store, dict[tuple[str, str], RunSpec]]) -> None:
    store, runs = stored
    exact, rounded = (np.exp(store.predictions(runs[name, kind])["log_probs"].astype(np.float64)).mean(0)
                      for kind in ("none", "int8"))  # fmt: skip
    variation = float(np.abs(exact - rounded).sum(-1).mean() / 2)
    assert variation < INT8_BOUND


def test_training_moves_predictions_more_than_int8_does(
    stored: tuple[Store, dict[tuple[str, str], RunSpec]],
) -> None:
    store, runs = stored
    probs = [np.exp(store.predictions(runs[name, "none"])["log_probs"][0]) for name in ("zero_shot", "adamw")]
    assert np.abs(probs[0] - probs[1]).sum(-1).mean() / 2 > 4 * INT8_BOUND
