"""A method's interface: its options, what it borrows, and what its draws are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch

from bench.cli.listing import list_methods
from bench.data.splits import DataSource
from bench.errors import BrokenPlugin
from bench.method import METHODS, Method, PredictJob, Recipe, get_method, method_names, recipe_of, register_method
from bench.options import Fit, Predict
from bench.plan.runs import plan_run
from bench.posterior import DiagGaussian, LowRankGaussian, Params, Point, Posterior, load_posterior
from bench.specs import ModelSpec
from tests.support import compute, plan_few


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Partial(Method):
    name, title, base = "partial", "Partial", "adamw"

    def draw(self, job: PredictJob) -> Iterable[Params]:
        return [{name: value for name, value in job.posterior.mean.items() if "lora_A" in name}]


def test_a_draw_that_lacks_adapters_is_refused(tmp_path: Path) -> None:
    """The others would have been fresh ones, whose B is 0: the prediction of the base alone."""
    register_method(Partial)
    with pytest.raises(ValueError, match=r"^partial\.draw gave no value for 4 of 8 adapters, such as .*lora_B"):
        compute(plan_few("partial"), tmp_path)


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


def test_a_value_in_the_body_of_a_subclass_that_would_be_ignored_is_refused() -> None:
    """Dataclasses take the default of an annotation alone: without one, `lr` would stay what it was."""

    @register_method
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Fast(get_method("adamw")):  # type: ignore[misc]
        name, title = "fast", "Fast"
        lr = 0.5

    with pytest.raises(BrokenPlugin, match=r"Fast\.lr: the value in the class body is not the default .* Annotate it"):
        Fast.make()

    @register_method
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Faster(get_method("adamw")):  # type: ignore[misc]
        name, title = "faster", "Faster"
        lr: Annotated[float, Fit("peak learning rate", ge=0)] = 0.5

    assert Faster.make().lr == 0.5


def test_a_predict_of_its_own_is_not_what_the_recipe_of_a_parent_says() -> None:
    class Warm(get_method("temperature")):  # type: ignore[misc]
        name, title = "warm", "Warm"

        def predict(self, job: PredictJob) -> torch.Tensor:
            return 0.5 * super().predict(job)

    class Told(Warm):
        name, title = "told", "Told"

        def recipe(self, posterior: Posterior) -> Recipe:
            return Recipe(temperature=3.0)

    point = Point({})
    assert recipe_of(Warm(), point).otherwise == "in a way of its own"
    assert recipe_of(Told(), point) == Recipe(temperature=3.0)
    assert recipe_of(get_method("adamw").make(), point) == Recipe()


@pytest.mark.parametrize("name", ["inner", "method"])
def test_names_that_derived_methods_need_are_taken(name: str) -> None:
    body = {"name": "meta", "title": "Meta", "base": "adamw", name: 1, "__annotations__": {name: SOME}}
    made: Any = dataclasses.dataclass(frozen=True, kw_only=True)(type("Meta", (Method,), body))
    with pytest.raises(BrokenPlugin, match=rf"\.{name}: the suite uses that name"):
        made.make()


SOME = Annotated[int, Predict("a number")]


def test_two_posteriors_of_one_kind_and_name_in_two_modules_are_told_apart() -> None:
    body = {"kind": "told_apart", "__module__": "plug_a", "__qualname__": "Scaled"}
    type("Scaled", (Posterior,), body)
    type("Scaled", (Posterior,), body)  # as a notebook's cell that runs again
    with pytest.raises(BrokenPlugin, match="that no other posterior has"):
        type("Scaled", (Posterior,), {**body, "__module__": "plug_b"})


def test_a_method_without_a_docstring_is_listed() -> None:
    @register_method
    class Bare(get_method("adamw")):  # type: ignore[misc]
        name, title = "bare", "Bare"

    Bare.__doc__ = ""
    assert next(one for one in list_methods() if one["name"] == "bare")["what"] == ""


def test_bounds_of_a_tuple_are_those_of_its_numbers() -> None:
    marker = Fit("shares", gt=0, le=1)
    marker.check((0.5, 1.0), "m.shares")
    with pytest.raises(ValueError, match=r"^m\.shares\[1\] is 7\.0: must be at most 1\.$"):
        marker.check((0.5, 7.0), "m.shares")


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("tfb", {"width": 1e-17}), ("tfb", {"smallest": 1e-200, "largest": 1e-150}), ("map", {"prior_sd": 1e-170}),
        ("adam_posterior", {"lowest": 1e-300}), ("sgld", {"prior_sd": 1e-170}), ("blob", {"prior_sd": 1e-170}),
    ],
)  # fmt: skip
def test_values_with_which_a_fit_would_hang_or_divide_by_zero_are_refused(method: str, values: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{method}\."):
        get_method(method).make(values)
