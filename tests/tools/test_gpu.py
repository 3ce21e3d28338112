"""tools/gpu.py at a tiny shape: what it measures must run where no GPU is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from tools import gpu
from tools.gpu_common import Bench

pytestmark = pytest.mark.slow


@pytest.fixture
def tiny(tmp_path: Path) -> Bench:
    return Bench(torch.device("cpu"), True, tmp_path)


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_a_random_base_reads_and_learns(quantization: str, tiny: Bench) -> None:
    model = tiny.model("llama_7b", quantization)
    data = tiny.data(model, 4)
    loss = torch.nn.functional.cross_entropy(model.logits(data.batch(range(4))), data.batch(range(4)).labels)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.params.values())
    kinds = {type(module).__name__ for module in model._base.modules()}
    assert {"none": "Linear", "int8": "Linear8bitLt", "nf4": "Linear4bit"}[quantization] in kinds


def test_parts_are_written_as_they_end_and_errors_do_not_stop_the_rest(tiny: Bench, tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    gpu.PARTS["fails"] = (lambda b: 1 / 0, 0)  # type: ignore[assignment, return-value]
    try:
        gpu.measure(tiny, ["fails", "05b"], out)
    finally:
        del gpu.PARTS["fails"]
    parts = json.loads(out.read_text())["parts"]
    assert "ZeroDivisionError" in parts["fails"]["error"]
    assert not [row for row in parts["05b"].values() if isinstance(row, dict) and "error" in row]
    assert {"forward_backward", "adamw_step", "swag_collection", "ten_draws", "la_diag", "la_kfac"} <= set(parts["05b"])


def test_a_part_that_no_longer_fits_is_left_out(tiny: Bench, tmp_path: Path) -> None:
    tiny.ends = 0.0
    assert gpu.measure(tiny, ["7b_int8"], tmp_path / "gpu.json")["7b_int8"]["skipped"] == "out of time"


def test_a_part_that_does_not_exist_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["gpu.py", "--tiny", "--parts", "machine,foo", "--out", str(tmp_path / "out.json")]
    )
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2 and "there is no part foo: machine" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
