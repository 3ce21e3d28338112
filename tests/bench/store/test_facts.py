"""Facts: every leaf is checked, what an earlier version lacks is not asked for, a changed file shows."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
from sample_facts import FIT, RUN

from bench.store.facts import FitFacts, RunFacts, check_facts, digest_of, to_plain, used_fit

KINDS = [(FitFacts, to_plain(FIT)), (RunFacts, to_plain(RUN))]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list) and value:
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, name))
    else:
        yield path


def replaced(facts: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = inner = copy.deepcopy(facts)
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return changed


@pytest.mark.parametrize(("kind", "facts"), KINDS)
def test_what_is_written_is_read(kind: Any, facts: Any) -> None:
    check_facts(kind, json.loads(json.dumps(facts)))


def test_an_evaluation_keeps_what_its_fit_cost() -> None:
    kept = to_plain(RUN)["fit"]
    assert kept.pop("key") == "0123456789abcdef"
    assert kept == {name: value for name, value in to_plain(FIT).items() if name in kept}
    assert set(kept) == set(to_plain(FIT)) - {"diagnostics", "provenance", "status"}


@pytest.mark.parametrize(("kind", "facts"), KINDS)
@pytest.mark.parametrize("junk", [None, "x", [], -1])
def test_a_digest_shows_any_changed_leaf(kind: Any, facts: Any, junk: Any) -> None:
    signed = {**facts, "digest": digest_of(facts)}
    check_facts(kind, signed)
    for path in leaves(facts):
        with pytest.raises(ValueError, match="digest"):
            check_facts(kind, replaced(signed, path, junk if replaced(facts, path, junk) != facts else "other"))


@pytest.mark.parametrize(("kind", "facts"), KINDS)
@pytest.mark.parametrize("junk", [{"a": 1}, float("nan"), "\x1b[31m", "=cmd|' /C calc'!A0", "<img src=x>"])
def test_without_a_digest_each_value_must_have_its_form(kind: Any, facts: Any, junk: Any) -> None:
    free = ("diagnostics", "warnings")  # a method's own words
    for path in leaves(facts):
        if not set(free) & set(path):
            with pytest.raises(ValueError, match=r"it should be"):
                check_facts(kind, replaced(facts, path, junk))


@pytest.mark.parametrize(("path", "junk"), [
    (("draws",), 0), (("draws",), True), (("metrics", "nll"), None), (("metrics", "nll"), float("inf")),
    (("seconds", "predict"), -1), (("fit", "steps"), "x"), (("fit", "key"), "../../etc"),
    (("provenance", "threads"), -1),
    (("provenance", "versions"), None), (("provenance", "time"), "x"), (("provenance", "commit"), "x"), (("fit",), []),
    (("fit", "warnings", 0), "\x1b]0;title\x07"), (("partial_data",), 1),
])  # fmt: skip
def test_a_wrong_value_is_named_by_its_path(path: tuple[Any, ...], junk: Any) -> None:
    with pytest.raises(ValueError, match="^" + r"\.".join(map(str, path)) + " is "):
        check_facts(RunFacts, replaced(to_plain(RUN), path, junk))


def test_facts_that_were_added_later_may_be_missing_and_others_not() -> None:
    older = to_plain(RUN)
    for name in ("forward_passes", "attempt", "status"):
        del older[name]
    del older["examples"]["fingerprint"]
    check_facts(RunFacts, {**older, "added_by_a_newer_version": {"x": 1}})
    del older["fit"]["seconds"]["train"]
    with pytest.raises(ValueError, match=r"^fit\.seconds\.train is missing$"):
        check_facts(RunFacts, older)


@pytest.mark.parametrize("junk", [None, [], "x", 3])
def test_facts_that_are_no_object_are_refused(junk: Any) -> None:
    with pytest.raises(ValueError, match="it should be an object"):
        check_facts(RunFacts, junk)


def test_a_fit_of_an_earlier_version_can_be_evaluated() -> None:
    older = {name: value for name, value in to_plain(FIT).items() if name != "forward_passes"}
    assert used_fit("0123456789abcdef", older).forward_passes is None
    assert dataclasses.replace(used_fit("0123456789abcdef", older), forward_passes=40) == RUN.fit
