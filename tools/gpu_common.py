"""Common code of the parts of tools/gpu.py: the device and its clock, jobs over random prompts."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from bench.data.batches import Encoded
from bench.method import PredictJob
from bench.model.choice_model import ChoiceModel
from bench.specs import DataSpec, FitSpec, TrainSpec
from bench.train.loop import Checkpointing, FitJob
from tools.gpu_bases import ANSWERS, prompts, random_model

LENGTHS = Path(__file__).parent / "arc_e_lengths.json"


@dataclasses.dataclass(eq=False)
class Bench:
    """Shared by all parts: ``found`` has what they measured, ``part`` what the present one has so far."""

    device: torch.device
    tiny: bool
    folder: Path
    ends: float = float("inf")
    mps: bool = False
    out: Path | None = None
    began: float = dataclasses.field(default_factory=time.monotonic)
    found: dict[str, Any] = dataclasses.field(default_factory=dict)
    part: dict[str, Any] = dataclasses.field(default_factory=dict)

    def write(self) -> None:
        """Write what is known by now; ``out`` is whole at any time."""
        if self.out is None:
            return
        whole = {"tiny": self.tiny, "seconds": time.monotonic() - self.began, "parts": self.found}
        new = self.out.with_suffix(".new")
        new.write_text(json.dumps(whole, indent=1, default=str) + "\n")
        new.replace(self.out)

    @functools.cache  # noqa: B019 (one object for the whole run)
    def ceiling(self) -> float:
        """FLOP/s of a large bfloat16 product."""
        size = 64 if self.tiny else 8192
        x, y = (torch.randn(size, size, device=self.device).bfloat16() for _ in range(2))
        return 2 * size**3 / (self.milliseconds(lambda: x @ y)["ms"] / 1e3)

    def lengths(self, count: int) -> list[int]:
        """The lengths of the first ``count`` ARC-E training prompts."""
        known: list[int] = json.loads(LENGTHS.read_text())["train"]
        return [min(n, 24) if self.tiny else n for n in known[:count]]

    def model(self, shape: str, quantization: str = "none", dropout: float = 0.1) -> ChoiceModel:
        where = self.folder / f"{shape}-{quantization}"
        return random_model(shape, quantization, self.device, where, self.tiny, dropout)

    def data(self, model: ChoiceModel, count: int) -> Encoded:
        return prompts(self.lengths(count), 1500, self.device)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def milliseconds(self, run: Callable[[], Any], repeats: int = 10, warm: int = 2) -> dict[str, float]:
        """Median and spread of ``run``, and the peak memory over what was held before, in MiB."""
        for _ in range(warm):
            run()
        self.synchronize()
        before = self._allocated(reset=True)
        times = []
        for _ in range(2 if self.tiny else repeats):
            began = time.perf_counter()
            run()
            self.synchronize()
            times.append(1e3 * (time.perf_counter() - began))
        found = {"ms": statistics.median(times), "min_ms": min(times), "max_ms": max(times)}
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            found |= {"peak_mib": peak / 2**20, "peak_over_held_mib": (peak - before) / 2**20}
        return found

    def peak(self) -> Callable[[], dict[str, float]]:
        """Start to watch the peak memory, which the result tells; nothing on a CPU."""
        self._allocated(reset=True)
        cuda = self.device.type == "cuda"
        return lambda: {"peak_mib": torch.cuda.max_memory_allocated(self.device) / 2**20} if cuda else {}

    def _allocated(self, reset: bool) -> int:
        if self.device.type != "cuda":
            return 0
        if reset:
            torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)


@contextlib.contextmanager
def failure(row: dict[str, Any]) -> Iterator[None]:
    """An error inside is left in ``row`` and goes no further."""
    try:
        yield
    except Exception:
        row["error"] = traceback.format_exc()[-1500:]


def fit_job(b: Bench, model: ChoiceModel, data: Encoded, steps: int = 8, **more: Any) -> FitJob:
    spec = FitSpec(
        method="measured", version=1, options={}, data=DataSpec(task="arc_e", version=1, revision=""), holdout=0,
        model=model.spec, train=TrainSpec(steps=steps, batch_size=4), seed=1, bases=(),
    )  # fmt: skip
    name = f"{time.time_ns()}.safetensors"
    where = Checkpointing(b.folder / "work" / name, every_seconds=1e9)
    return FitJob(spec=spec, load=lambda: model, encode=lambda: data, checkpointing=where, **more)


def predict_job(model: ChoiceModel, data: Encoded, posterior: Any) -> PredictJob:
    return PredictJob(
        posterior=posterior, examples=data.examples, answers=ANSWERS, generator=torch.Generator().manual_seed(4),
        batch_size=8, load=lambda: model, max_length=320, _encoded=data,
    )  # fmt: skip
