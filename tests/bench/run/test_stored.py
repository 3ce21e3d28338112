"""A stored result is opened by the start of its key, and says what is missing to use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import plan

from bench.run.stored import open_result
from bench.specs import FitSpec, RunSpec, build, key, to_json
from bench.store.records import DamagedRecord

RUN = plan("mc_dropout")


def stored(spec: FitSpec | RunSpec, runs: Path, **changed: Any) -> str:
    """The key of ``spec``, stored in ``runs`` with some of its fields ``changed``."""
    data = {**to_json(spec), **changed}
    name = key(build(type(spec), data))
    folder = runs / ("evals" if isinstance(spec, RunSpec) else "fits") / name
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps(data))
    return name


@pytest.mark.parametrize("spec", [RUN, RUN.fit], ids=["evaluation", "fit"])
def test_a_result_is_opened_by_the_start_of_its_key(spec: FitSpec | RunSpec, tmp_path: Path) -> None:
    found = open_result(tmp_path, stored(spec, tmp_path)[:8])
    assert found.key == key(spec) and found.method.name == spec.method


@pytest.mark.parametrize(
    ("spec", "changed", "kind"),
    [
        (RUN, {"method": "mine"}, "method"),
        (RUN.fit, {"method": "mine"}, "method"),
        (RUN.fit, {"data": {**to_json(RUN.fit.data), "task": "mine"}}, "task"),
    ],
)
def test_what_a_plugin_defines_needs_the_plugin(
    spec: FitSpec | RunSpec, changed: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    name = stored(spec, tmp_path, **changed)
    with pytest.raises(LookupError, match=rf"There is no {kind} 'mine'\..*name its module or task file with --plugin"):
        open_result(tmp_path, name)


@pytest.mark.parametrize("spec", [RUN, RUN.fit], ids=["evaluation", "fit"])
@pytest.mark.parametrize("field", ["version", "options"])
def test_a_spec_that_was_changed_is_refused(spec: FitSpec | RunSpec, field: str, tmp_path: Path) -> None:
    """Another seed, tau or field would predict something else than the folder's name says."""
    name = stored(spec, tmp_path)
    file = next(tmp_path.rglob("spec.json"))
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, field: {"version": 7, "options": [1]}[field]}))
    with pytest.raises(DamagedRecord, match=r"hashes to|is damaged"):
        open_result(tmp_path, name[:8])
