"""A method's interface: its options, what it borrows, and what its draws are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch

from bench.data.splits import DataSource
from bench.errors import BrokenPlugin
from bench.method import METHODS, Method, PredictJob, method_names, register_method
from bench.options import Fit, Predict
from bench.plan.runs import plan_run
from bench.posterior import DiagGaussian, LowRankGaussian, Params, Point, Posterior, load_posterior
from bench.specs import ModelSpec


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    method_names()
    monkeypatch.setattr(METHODS, "_classes", dict(METHODS._classes))
    yield


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optional(Method):
    name, title, base = "optional", "Optional", "adamw"
    share: Annotated[float | None, Predict("a share, or none", ge=0)] = None
    kind: Annotated[Literal["x", "y"] | None, Predict("a kind, or none")] = None


def test_an_option_that_is_none_has_no_range() -> None:
    made: Any = Optional.make()
    assert (made.share, made.kind) == (None, None)
    assert Optional.make({"share": "none", "kind": "x"}) == Optional(kind="x")
    with pytest.raises(ValueError, match=r"optional\.share is -1\.0: must be at least 0"):
        Optional.make({"share": -1})
    with pytest.raises(ValueError, match=r"optional\.kind is 'z'"):
        Optional.make({"kind": "z"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Borrower(Method):
    name, title, base = "borrower", "Borrower", "adamw"
    strength: Annotated[float, Fit("read by nobody")] = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Above(Method):
    name, title, base = "above", "On a borrower", "borrower"


@pytest.mark.parametrize("name", ["borrower", "above"])
def test_a_borrowed_fit_reads_no_options(name: str) -> None:
    register_method(Borrower)
    register_method(Above)
    with pytest.raises(BrokenPlugin, match=r"^Borrower\.strength: nothing reads it, .* with Predict"):
        plan_run(name, "notes_two", 1, settings={}, model=ModelSpec(), source=DataSource())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawless(Method):
    name, title, base = "drawless", "Drawless", "adamw"

    def draw(self, job: PredictJob) -> Iterable[Params]:
        return iter(())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Returnless(Drawless):
    def draw(self, job: PredictJob) -> Iterable[Params]:
        return None  # type: ignore[return-value]  # a forgotten return


@pytest.mark.parametrize("cls", [Drawless, Returnless])
def test_a_method_without_a_draw_says_what_to_return(cls: type[Method]) -> None:
    job = PredictJob(Point({}), (), ("A", "B"), torch.Generator(), 8, lambda: pytest.fail("loaded"), 320)
    with pytest.raises(ValueError, match=r"^drawless\.draw gave no adapter values: return at least one\.$"):
        cls().predict(job)


LOCATION = {"a": torch.ones(2, 3), "b": torch.full((4,), 2.0), "c": torch.full((2,), 3.0)}
SOME = {"a": torch.full((2, 3), 4.0), "c": torch.full((2,), 4.0)}
DEVIATIONS = {name: torch.ones(2, *value.shape) for name, value in SOME.items()}
NONE = torch.zeros(4)


@pytest.mark.parametrize(
    ("some", "whole"),
    [
        (DiagGaussian(LOCATION, SOME), DiagGaussian(LOCATION, SOME | {"b": NONE})),
        (
            LowRankGaussian(LOCATION, SOME, DEVIATIONS),
            LowRankGaussian(LOCATION, SOME | {"b": NONE}, DEVIATIONS | {"b": torch.zeros(2, 4)}),
        ),
    ],
)
def test_a_parameter_without_a_variance_is_known(some: Posterior, whole: Posterior, tmp_path: Path) -> None:
    some.save(tmp_path / "p.safetensors")
    for posterior in (some, load_posterior(tmp_path / "p.safetensors")):
        drawn = list(posterior.draws(2, torch.Generator().manual_seed(1)))
        expected = list(whole.draws(2, torch.Generator().manual_seed(1)))
        for one, other in zip(drawn, expected, strict=True):
            assert torch.equal(one["b"], LOCATION["b"]) and not torch.equal(one["a"], LOCATION["a"])
            assert all(torch.equal(one[name], other[name]) for name in LOCATION), "the others' noise is the same"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Later(Method):
    name, title, base = "later", "Later", "adamw"
    old: Annotated[float, Predict("an option of the first release")] = 1
    new: Annotated[float, Predict("one that was added later", since="9.0")] = 0


def test_a_later_option_is_in_no_spec_while_it_has_its_default() -> None:
    assert Later.make().options("predict") == Later.make({"new": 0.0}).options("predict") == {"old": 1.0}
    assert Later.make({"new": 2}).options("predict") == {"old": 1.0, "new": 2.0}
    assert Later.make({"old": 3}).options("predict") == {"old": 3.0}
