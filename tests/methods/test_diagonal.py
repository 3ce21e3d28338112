"""Pruning and variance masks of diagonal Gaussians, alone and as prediction options of stored posteriors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import compute
from support import plan_few as plan
from torch import Tensor

from bench.method import get_method
from bench.posterior import DiagGaussian, Point
from bench.specs import key
from methods.diagonal import pruned, varying

A, B = "x.lora_A.weight", "x.lora_B.weight"


def gaussian() -> DiagGaussian:
    """|m| / sd is 4, 1, 2, 0.5 in A, and 3, known (m = 0.1), 0 in B."""
    return DiagGaussian(
        {A: torch.tensor([[4.0, -1.0], [0.2, -0.5]]), B: torch.tensor([[3.0], [0.1], [0.0]]), "m": torch.tensor([0.0])},
        {A: torch.tensor([[1.0, 1.0], [0.01, 1.0]]), B: torch.tensor([[1.0], [0.0], [1.0]]), "m": torch.tensor([1.0])},
    )


@pytest.mark.parametrize(
    ("share", "kept"),
    [(1 / 7, [4, -1, 0.2, -0.5, 3, 0.1, 0]), (3 / 7, [4, 0, 0.2, 0, 3, 0.1, 0]), (6 / 7, [0, 0, 0, 0, 0, 0.1, 0])],
)
def test_the_entries_of_least_signal_go_first_and_known_ones_last(share: float, kept: list[float]) -> None:
    found = pruned(gaussian(), share)
    assert torch.cat([found.mean[A].flatten(), found.mean[B].flatten()]).tolist() == pytest.approx(kept)
    (draw,) = found.draws(1, torch.Generator().manual_seed(0))
    (whole,) = gaussian().draws(1, torch.Generator().manual_seed(0))
    for name in (A, B):
        zero = (found.mean[name] == 0) & (found.variance[name] == 0)
        assert torch.equal(draw[name], whole[name].masked_fill(zero, 0)), "what is kept is drawn as before"
    assert torch.equal(draw["m"], whole["m"]), "magnitudes are not pruned"


def test_nothing_and_everything() -> None:
    posterior = gaussian()
    assert pruned(posterior, 0.0) is posterior
    whole = pruned(posterior, 1.0)
    assert not any(whole.mean[name].any() or whole.variance[name].any() for name in (A, B))


def test_only_the_masked_part_varies() -> None:
    for part, other in (("lora_A", B), ("lora_B", A)):
        found = varying(gaussian(), part)
        (draw,) = found.draws(1, torch.Generator().manual_seed(0))
        assert torch.equal(draw[other], gaussian().mean[other])
        assert [name for name in found.uncertain if part not in name] == []


SETTINGS: dict[str, Any] = {"adamw": {"lr": 1e-2}, "ivon": {"lr": 0.3, "ess": 1e4, "h0": 0.01}, "steps": 12}
DRAWN: dict[str, dict[str, Any]] = {
    "ivon": {"draws": 3},
    "la_diag": {"predictive": "sampled", "draws": 3},
    "isotropic": {"search_draws": 1, "width": 1.0, "draws": 3},
}


def predicted(folder: Path, name: str, **options: Any) -> Tensor:
    run = plan(name, **{**SETTINGS, name: {**SETTINGS.get(name, {}), **options}})
    return torch.from_numpy(compute(run, folder).predictions(run)["log_probs"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize(("name", "options"), [*DRAWN.items(), ("ivon_mean", {}), ("la_diag", {})])
def test_with_all_entries_pruned_only_the_base_is_left(name: str, options: dict[str, Any], folder: Path) -> None:
    found = predicted(folder, name, **options, prune=1.0)
    base = predicted(folder, "zero_shot")
    assert torch.equal(found, base.expand_as(found))
    some = predicted(folder, name, **options, prune=0.5)
    assert not torch.equal(some, predicted(folder, name, **options)) and not torch.equal(some, base.expand_as(some))


@pytest.mark.parametrize("name", DRAWN)
def test_a_mask_narrows_the_predictive(name: str, folder: Path) -> None:
    options = {**DRAWN[name], "draws": 4}
    whole, a, b = (predicted(folder, name, **options, uncertain=part) for part in ("all", "A", "B"))
    assert whole.shape == a.shape == b.shape and not torch.equal(a, b)
    spread = [float(part.exp().var(0).mean()) for part in (whole, a, b)]
    assert spread[0] > min(spread[1:]) > 0


def test_the_linearised_predictive_takes_a_mask(folder: Path) -> None:
    whole, a = (predicted(folder, "la_diag", uncertain=part) for part in ("all", "A"))
    assert not np.array_equal(whole, a)


@pytest.mark.parametrize(
    ("name", "before"),
    [("ivon", "e55adb3e46b8c738"), ("ivon_mean", "e81fe64b34fdaf49"), ("la_diag", "6102772d0418754a")],
)
def test_an_option_at_its_default_is_in_no_key(name: str, before: str) -> None:
    """``before``: the key of the same run before there were these options."""
    run, changed = plan(name, "notes_two"), plan(name, "notes_two", **{name: {"prune": 0.5}})
    assert key(run) == before and "prune" not in run.options
    assert key(run) == key(plan(name, "notes_two", **{name: {"prune": 0}}))
    assert key(changed) != before and key(changed.fit) == key(run.fit)


def test_other_posteriors_and_values_are_refused_in_a_sentence() -> None:
    with pytest.raises(TypeError, match="ivon predicts with a diagonal Gaussian, not with a point"):
        get_method("ivon").make().narrowed(Point({}))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"ivon\.prune is 1\.5: must be at most 1"):
        get_method("ivon").make({"prune": 1.5})
