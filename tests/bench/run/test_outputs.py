"""What a method returns is refused where it cannot be stored or scored, with its name and a way out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import compute
from support import plan_few as plan

from bench.method import FitJob, PredictJob, get_method
from bench.posterior import DiagGaussian, Point, load_posterior
from bench.run.outputs import as_predictions, checked, plain, printable, remarks
from bench.store.store import Store

EVEN = torch.full((256, 2), 0.5).log()


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (EVEN, r"shape \(256, 2\); it should be \(draws, 256, 2\)"),
        (EVEN.T.unsqueeze(0), r"shape \(1, 2, 256\); it should be"),
        (EVEN.unsqueeze(0).exp(), "probabilities sum to .*, not to one"),
        (EVEN.unsqueeze(0) + 1, r"probabilities sum to 2\.718, not to one"),
        (EVEN.unsqueeze(0) * float("nan"), "zero or not a number"),
        (EVEN.unsqueeze(0) - float("inf"), "zero or not a number"),
        (EVEN.unsqueeze(0).numpy(), "returned a ndarray: return a tensor"),
        (None, "returned a NoneType: return a tensor"),
        (EVEN.unsqueeze(0).to_sparse(), "not dense and real"),
        (EVEN.unsqueeze(0).to("meta"), "not dense and real"),
        (EVEN.unsqueeze(0).to(torch.complex64), "not dense and real"),
    ],
    ids="no-draws transposed probabilities logits nan inf numpy none sparse meta complex".split(),
)
def test_what_is_not_a_prediction_is_refused(found: Any, said: str) -> None:
    with pytest.raises((ValueError, TypeError, FloatingPointError), match=said):
        as_predictions(found, "mine", 256, 2)


def test_a_refused_prediction_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(self: Any, job: PredictJob) -> Any:
        return EVEN

    monkeypatch.setattr(get_method("softened"), "predict", predict)
    monkeypatch.setattr(get_method("adamw"), "fit", lambda self, job: Point({}))
    with pytest.raises(ValueError, match=r"softened\.predict returned shape"):
        compute(plan("softened"), tmp_path)
    assert not Store(tmp_path).has(plan("softened"))


def tensor(value: Any) -> Any:
    """A posterior with this value."""
    return Point({"a": value})


@pytest.mark.parametrize(
    ("posterior", "said"),
    [
        (None, r"mine\.fit returned a NoneType: return a Posterior"),
        (
            tensor(torch.tensor([1.0, float("nan")])),
            "The value of 'a' in the posterior of mine has values",
        ),
        (tensor(torch.tensor([1.0, float("inf")])), "not finite: lower the learning rate"),
        (tensor(1.5), "is a float: make it a tensor"),
        (tensor(np.ones(2)), "is a ndarray: make it a tensor"),
        (tensor(torch.ones(2, device="meta")), "on the meta device"),
        (tensor(torch.ones(2, 2).to_sparse()), "sparse, nested or quantised"),
        (tensor(torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])), "sparse, nested or quantised"),
        (tensor(torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)), "sparse, nested or quantised"),
        (tensor(torch.ones(2, dtype=torch.complex64)), "torch.complex64, which cannot be stored"),
        (tensor(torch.ones(2).to(torch.float8_e4m3fn)), "float8_e4m3fn, which cannot be stored"),
        (
            DiagGaussian({"a": torch.ones(2)}, {"a": torch.tensor([0.0, -1e-9])}),
            "is -1e-09 at its smallest: a variance",
        ),
        (Point({3: torch.ones(2)}), "a name that cannot be stored"),  # type: ignore[dict-item]
        (Point({"\ud800": torch.ones(2)}), "a name that cannot be stored"),
        (Point([torch.ones(2)]), "is a list: a posterior's fields are dictionaries"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_stored_is_refused_when_the_fit_returns_it(posterior: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError, FloatingPointError), match=said):
        checked(posterior, "mine")


flat = torch.arange(12.0)


@pytest.mark.parametrize(
    "values",
    [
        {"a": flat, "b": flat},
        {"a": flat[:4], "b": flat[2:6]},
        {"a": flat.view(3, 4).T, "b": flat.view(3, 4)},
        {"a": torch.ones(1).expand(5, 3)},
        {"a": torch.nn.Parameter(flat), "b": torch.ones(3, dtype=torch.bfloat16), "c": torch.ones(2, dtype=torch.bool)},
        {},
    ],
    ids=["same", "overlapping", "turned", "expanded", "dtypes", "empty"],
)
def test_what_can_be_stored_comes_back_by_value(values: dict[str, torch.Tensor], tmp_path: Path) -> None:
    checked(Point(values), "mine").save(tmp_path / "posterior.safetensors")
    back = load_posterior(tmp_path / "posterior.safetensors").mean
    assert back.keys() == values.keys() and all(torch.equal(back[name], values[name]) for name in values)


def test_a_posterior_whose_tensors_are_one_object_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(self: Any, job: FitJob) -> Any:
        mean, by_shape = job.model.snapshot(), dict[torch.Size, torch.Tensor]()
        return DiagGaussian(mean, {n: by_shape.setdefault(m.shape, torch.full(m.shape, 0.1)) for n, m in mean.items()})

    monkeypatch.setattr(get_method("ivon"), "fit", fit)
    posterior = compute(plan("ivon"), tmp_path).posterior(plan("ivon").fit)
    assert isinstance(posterior, DiagGaussian) and all(bool((v == 0.1).all()) for v in posterior.variance.values())


def test_facts_are_kept_as_far_as_json_goes_and_nothing_is_lost_for_them() -> None:
    facts, said = plain(
        {
            "count": 3,
            "tensor": torch.tensor(0.5),
            "list": torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
            "numpy": np.float32(0.25),
            "deep": {"a": [1, (2.0, None)]},
            "nan": math.nan,
            "inner": [1.0, torch.tensor(math.inf)],
            "object": Path("x"),
            3: "key",
        },
        "mine",
    )
    assert facts == {
        "count": 3, "tensor": 0.5, "list": [1.0, 2.0], "numpy": 0.25, "deep": {"a": [1, [2.0, None]]}, "nan": None,
        "inner": [1.0, None], "object": "x", "3": "key",
    }  # fmt: skip
    assert said == [
        "mine's fact 'nan' is nan and is stored as null.",
        "mine's fact 'inner' is inf and is stored as null.",
        "mine's fact 'object' is a PosixPath and is stored as text.",
    ]


@pytest.mark.parametrize("odd", [math.nan, object(), {1: math.inf}])
def test_odd_facts_and_warnings_do_not_cost_a_training(
    odd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = get_method("adamw").fit

    def remarking(self: Any, job: FitJob) -> Any:
        job.facts["odd"] = odd
        job.warnings.append("red \x1b[31m\nand more")
        return fit(self, job)

    monkeypatch.setattr(get_method("adamw"), "fit", remarking)
    run = plan("adamw")
    facts = compute(run, tmp_path).record(run).facts
    assert facts["fit"]["warnings"][0] == "red ?[31m\nand more"
    assert printable("a\tb\x00") == "a\tb?"


def test_uniform_predictions_are_remarked_on() -> None:
    uniform = np.full((2, 5, 4), -math.log(4), dtype=np.float32)
    (sentence,) = remarks(uniform)
    assert "uniform" in sentence and "overflowed" in sentence
    uniform[0, 0] = np.log([0.1, 0.2, 0.3, 0.4])
    assert remarks(uniform) == []


def test_draws_that_overflow_are_warned_of_in_the_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, run = get_method("ivon").draw, plan("ivon", ivon={"draws": 2})

    def huge(self: Any, job: PredictJob) -> Any:
        return ({name: 1e12 * value for name, value in params.items()} for params in draw(self, job))

    monkeypatch.setattr(get_method("ivon"), "draw", huge)
    facts = compute(run, tmp_path).record(run).facts
    assert "Every prediction is uniform" in facts["warnings"][0] and facts["warnings"][0] in caplog.text


# 1e35 squared is infinite in float32, 1e-30 squared is 0
@pytest.mark.parametrize(("lr", "scale"), [(0, 1.0), (1e-3, 1e35), (1e-3, 1e-30)])
def test_a_training_that_moves_nothing_is_warned_of(
    lr: float, scale: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, run = FitJob.loss, plan("adamw", adamw={"lr": lr})
    monkeypatch.setattr(FitJob, "loss", lambda job, batch: scale * loss(job, batch))
    (sentence,) = compute(run, tmp_path).fit_facts(run.fit)["warnings"]
    assert sentence.startswith("No parameter moved in 8 steps")


def test_a_usual_training_is_not_warned_of(tmp_path: Path) -> None:
    for method in ("adamw", "swa"):
        run = plan(method)
        assert compute(run, tmp_path).fit_facts(run.fit)["warnings"] == []
