"""Planning with hooks of plug-ins: whatever they raise or return becomes one sentence that names the hook."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from support import plan

from bench.errors import BrokenPlugin
from bench.method import METHODS, Method, method_names, register_method
from bench.options import Fit
from bench.posterior import Point
from bench.specs import member


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    method_names()
    monkeypatch.setattr(METHODS, "_classes", dict(METHODS._classes))
    yield


def hooked(**hooks: Any) -> type[Method]:
    """A registered method on AdamW with these hooks."""
    contents = {"name": "hooked", "title": "Hooked", "base": "adamw", "fit": lambda self, job: Point({}), **hooks}
    return register_method(dataclasses.dataclass(frozen=True, kw_only=True)(type("Hooked", (Method,), contents)))


def raising(error: BaseException) -> Callable[..., Any]:
    def hook(*arguments: Any) -> Any:
        raise error

    return hook


@pytest.mark.parametrize("hook", ["check", "check_fit", "bases", "__post_init__"])
@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("a\nb"), ZeroDivisionError(), IndexError("i")])
def test_what_a_hook_raises_is_one_sentence_that_names_it(hook: str, error: Exception) -> None:
    hooked(**{hook: raising(error)})
    with pytest.raises(BrokenPlugin, match=rf"{hook} raised {type(error).__name__}.*: fix it\.$") as told:
        plan("hooked")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("hook", ["check", "check_fit", "bases"])
def test_a_hook_that_ends_the_process_does_not(hook: str) -> None:
    hooked(**{hook: lambda *arguments: sys.exit(3)})
    with pytest.raises(BrokenPlugin, match=f"{hook} raised SystemExit: 3"):
        plan("hooked")


@pytest.mark.parametrize("hook", ["check", "check_fit", "bases", "__post_init__"])
def test_a_sentence_of_a_hook_stays_as_it_is(hook: str) -> None:
    hooked(**{hook: raising(ValueError("hooked needs more steps: raise steps."))})
    with pytest.raises(ValueError, match=r"^hooked needs more steps: raise steps\.$"):
        plan("hooked")


def test_a_hook_with_other_parameters_is_named() -> None:
    hooked(check=lambda self: None)
    with pytest.raises(BrokenPlugin, match=r"Hooked\.check raised TypeError"):
        plan("hooked")


@pytest.mark.parametrize("found", [None, (), [], 3, "adamw", ("adamw",), {}])
def test_bases_that_are_no_fits_are_refused(found: Any) -> None:
    hooked(bases=lambda self, base: found)
    with pytest.raises(BrokenPlugin, match=r"^Hooked\.bases returned .*: return a tuple of one or more FitSpecs"):
        plan("hooked")


def test_bases_that_have_seen_what_is_left_out_are_refused() -> None:
    hooked(bases=lambda self, base: (dataclasses.replace(base, holdout=0.0),))
    assert plan("hooked").fit.bases  # nothing is left out here
    with pytest.raises(BrokenPlugin, match=r"Hooked\.bases returned fits on other data, or with a smaller holdout"):
        plan("hooked", tune_share=0.25)


@pytest.mark.parametrize("count", [1, 3])
def test_bases_of_other_seeds_are_accepted(count: int) -> None:
    hooked(bases=lambda self, base: [member(base, m) for m in range(count)])
    assert len(plan("hooked").fit.bases) == count


@pytest.mark.parametrize(
    ("annotation", "default", "said"),
    [
        (float, 1.0, r"annotate it as Annotated\[float, Fit"),
        (Annotated[dict, Fit("x")], 1, "a hyperparameter is a bool, int, float, str"),
        (Annotated[float, Fit("x")], "oops", "The default of Odd.k is 'oops': expected a number"),
        (Annotated[int, Fit("x", ge=2)], 1, "The default of Odd.k is 1: must be at least 2"),
        (Annotated[int, Fit("x")], dataclasses.MISSING, "has no default"),
    ],
)
def test_a_hyperparameter_that_is_declared_wrongly_is_named(annotation: Any, default: Any, said: str) -> None:
    contents: dict[str, Any] = {"name": "odd", "title": "Odd", "base": "adamw", "__annotations__": {"k": annotation}}
    if default is not dataclasses.MISSING:
        contents["k"] = default
    cls = dataclasses.dataclass(frozen=True, kw_only=True)(type("Odd", (Method,), contents))
    with pytest.raises(BrokenPlugin, match=said):
        cls.make() if default is not dataclasses.MISSING else cls.hyperparameters()


@pytest.mark.parametrize("name", ["per_task", "title", "draw", "predict", "base"])
def test_a_hyperparameter_that_hides_something_of_the_suite_is_refused(name: str) -> None:
    contents: dict[str, Any] = {"title": "Odd", "base": "adamw", "__annotations__": {name: Annotated[int, Fit("x")]}}
    cls = dataclasses.dataclass(frozen=True, kw_only=True)(type("Odd", (Method,), {"name": "odd", **contents, name: 1}))
    with pytest.raises(BrokenPlugin, match=rf"Odd\.{name}: the suite uses that name; choose another"):
        cls.hyperparameters()
