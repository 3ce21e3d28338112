"""What can be said of a base without its weights."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.model import outline
from bench.model.formats import EMBEDDED
from bench.model.outline import check_outline
from bench.specs import LoraSpec, ModelSpec

SPEC = ModelSpec()


def with_config(folder: Path, **changes: Any) -> Path:
    """The embedded base with another configuration, and no weights."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / name, folder)
    config = json.loads((EMBEDDED / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize("targets", [("q_proj",), ("head",), ("*.v_proj", "head"), ("o_proj", "down_proj")])
def test_layers_that_the_base_has_are_accepted(targets: tuple[str, ...]) -> None:
    check_outline(dataclasses.replace(SPEC, lora=LoraSpec(targets=targets)), None, [("A", "B")])


def test_answers_that_the_tokenizer_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="supercalifragilistic"):
        check_outline(SPEC, None, [("A", "B"), ("A", "supercalifragilistic")])


def test_weights_are_not_read(tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, id="local:0")
    check_outline(spec, with_config(tmp_path / "a"), [("A", "B")])
    with pytest.raises(ValueError, match="no layer 'w_proj'"):
        check_outline(dataclasses.replace(spec, lora=LoraSpec(targets=("w_proj",))), tmp_path / "a", [("A", "B")])


@pytest.mark.parametrize("layers", [10**9, 10_001])
def test_a_configuration_that_would_take_for_ever_is_refused_at_once(tmp_path: Path, layers: int) -> None:
    folder = with_config(tmp_path / "deep", num_hidden_layers=layers)
    with pytest.raises(ValueError, match=f"num_hidden_layers = {layers}: correct it"):
        check_outline(dataclasses.replace(SPEC, id="local:0"), folder, [])


def test_a_base_that_cannot_be_built_without_weights_is_left_to_its_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outline, "linear_layers", lambda base: 1 / 0)
    check_outline(dataclasses.replace(SPEC, lora=LoraSpec(targets=("w_proj",))), None, [])
