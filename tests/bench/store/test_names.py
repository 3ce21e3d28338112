"""Names in specs are those that registry and plan would accept."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from bench.data.protocol import PROTOCOLS
from bench.specs import DataSpec, FitSpec, LoraSpec, ModelSpec, RunSpec, TrainSpec
from bench.store import names
from bench.store.names import misnamed

DATA = DataSpec(task="arc_e", version=1, revision="210d026+partial:0123456789abcdef")
FIT = FitSpec(method="ivon", version=1, options={"ess": 1e6, "names": ("a", "b"), "none": None}, data=DATA, holdout=0.1,
              model=ModelSpec(id="meta-llama/Llama-2-7b-hf"), train=TrainSpec(), seed=1)  # fmt: skip
RUN = RunSpec(fit=FIT, method="ivon", version=1, options={"tau": 1.0}, data=DATA, split="validation", variant="a b+1.0")
HOSTILE = [
    "=cmd|' /C calc'!A0",
    "<img src=x onerror=alert(1)>",
    "\x1b[31m",
    "a\nb",
    "../../etc",
    "\u202eabc",
    "x" * 2000,
]


def changed(**fields: Any) -> RunSpec:
    """RUN with one name changed, wherever it is."""
    (name, value), = fields.items()  # fmt: skip
    if name in ("method", "split", "protocol", "variant", "purpose"):
        return dataclasses.replace(RUN, **{name: value})
    if name == "task":
        return dataclasses.replace(RUN, data=dataclasses.replace(DATA, task=value))
    if name == "revision":
        return dataclasses.replace(RUN, fit=dataclasses.replace(FIT, data=dataclasses.replace(DATA, revision=value)))
    if name == "option":
        return dataclasses.replace(RUN, options={value: 1})
    if name == "base":
        base = dataclasses.replace(FIT, method=value)
        return dataclasses.replace(RUN, fit=dataclasses.replace(FIT, bases=(base,)))
    model = dataclasses.replace(FIT.model, **{name: value})
    return dataclasses.replace(RUN, fit=dataclasses.replace(FIT, model=model))


def test_what_the_suite_writes_is_accepted() -> None:
    assert misnamed(RUN) == "" and misnamed(FIT) == ""
    for model in ("embedded", "local:0123456789abcdef", "Qwen/Qwen2.5-0.5B"):
        assert misnamed(changed(id=model)) == ""
    assert set(names.PROTOCOLS) == set(PROTOCOLS)


FIELDS = ["method", "task", "split", "protocol", "variant", "purpose", "revision", "option", "base", "id", "dtype",
          "quantization"]  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_refused_and_shown_harmlessly(field: str, text: str) -> None:
    said = misnamed(changed(**{field: text}))
    if field in ("id", "revision") and text.startswith("../"):
        assert said
    assert said and said.isascii() and said.isprintable() and len(said) < 200


@pytest.mark.parametrize("value", ["\x1b]0;title\x07", {"a": 1}, ("ok", "a\nb"), "x" * 2000])
def test_hostile_values_of_options_are_refused(value: Any) -> None:
    assert misnamed(dataclasses.replace(RUN, options={"tau": value})).startswith("the option 'tau' is ")


def test_a_hostile_target_is_refused() -> None:
    model = dataclasses.replace(FIT.model, lora=LoraSpec(targets=("q_proj", "\x1b[31m")))
    assert misnamed(dataclasses.replace(FIT, model=model)).startswith("the LoRA target is ")
