"""Workers and GPUs: an ``nvidia-smi`` that a test writes stands in for the cards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.process import gpus
from bench.specs import ModelSpec

BF16 = ModelSpec(dtype="bfloat16")


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose file ``free`` holds the MiB that two fake cards have free."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    free = tmp_path / "free"
    free.write_text("40000")
    program.write_text(f'#!/bin/sh\nif [ "$1" = -L ]; then echo "GPU 0: A"; echo "GPU 1: B"; else cat {free}; fi\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return free


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with 64 Mi weights: 128 MiB in bfloat16, so 1664 MiB for each worker."""
    folder = tmp_path / "base"
    folder.mkdir()
    for number in range(2):
        save_file({"w": torch.zeros(32, 1024, 1024, dtype=torch.int8)}, folder / f"{number}.safetensors")
    return folder


def test_workers_take_the_gpus_in_turn(cards: Path, base: Path) -> None:
    assert gpus.assign(2, BF16, base) == ["0", "1"]
    assert gpus.assign(5, BF16, base) == ["0", "1", "0", "1", "0"]


def test_only_visible_gpus_are_used(cards: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert gpus.assign(3, BF16, base) == ["7", "7", "7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.assign(3, BF16, base) == [None, None, None]


def test_workers_that_do_not_fit_are_refused(cards: Path, base: Path) -> None:
    cards.write_text("3400")  # two workers of 1664 MiB
    assert len(gpus.assign(4, BF16, base)) == 4
    with pytest.raises(ValueError, match=r"--workers 5: 3 workers would share GPU 0.* hold 2 \(about 1664 MiB each\)"):
        gpus.assign(5, BF16, base)
    with pytest.raises(ValueError, match="hold 1"):
        gpus.assign(4, ModelSpec(dtype="float32"), base)  # twice the weights


def test_one_worker_per_gpu_is_never_refused(cards: Path, base: Path) -> None:
    cards.write_text("10")
    assert gpus.assign(2, BF16, base) == ["0", "1"]


def test_what_is_not_known_is_not_checked(cards: Path, base: Path) -> None:
    cards.write_text("[N/A]")
    assert len(gpus.assign(99, BF16, base)) == 99
    cards.write_text("10")
    assert len(gpus.assign(99, ModelSpec(id="some/hub-name"), None)) == 99


def test_a_machine_without_gpus_sets_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus.assign(4, BF16, tmp_path) == [None] * 4
