"""Which GPUs the worker processes of one machine use, and whether they fit. Asks ``nvidia-smi``; never starts CUDA."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import subprocess
from pathlib import Path

from bench.specs import ModelSpec

log = logging.getLogger(__name__)

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.1, "nf4": 0.6}  # per weight, scales included
WORKER_MIB = 1536  # CUDA context, adapters, optimizer and activations of one worker, besides the base's weights


def visible() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in _ask("-L")))]


def assign(workers: int, model: ModelSpec, folder: Path | None) -> list[str | None]:
    """One GPU for each worker, in turn; None for all of them on a machine without a GPU.

    ``folder`` holds the base's safetensors. Workers that share a GPU each load the base: where the folder and the free
    memory are known, they must fit (weights in their dtype + 1.5 GiB each, for short prompts in small batches).

    Raises:
        ValueError: more workers would share a GPU than its free memory holds.
    """
    gpus = visible()
    if not gpus:
        return [None] * workers
    shared = -(-workers // len(gpus))
    if shared > 1:
        need = worker_mib(model, folder)
        for gpu in gpus:
            free = free_mib(gpu)
            if free is not None and need is not None and free < shared * need:
                raise ValueError(
                    f"--workers {workers}: {shared} workers would share GPU {gpu}, whose {free} MiB of free memory "
                    f"hold {int(free / need)} (about {need:.0f} MiB each). Lower --workers."
                )
        log.info("%d workers share %d GPU(s)", workers, len(gpus))
    return [gpus[number % len(gpus)] for number in range(workers)]


def free_mib(gpu: str) -> int | None:
    """Free memory of a GPU in MiB; None where ``nvidia-smi`` does not say."""
    lines = _ask("-i", gpu, "--query-gpu=memory.free", "--format=csv,noheader,nounits")
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None


def worker_mib(model: ModelSpec, folder: Path | None) -> float | None:
    """Memory that one worker needs, in MiB, estimated from the number of weights; None where no file tells it."""
    weights = [count_weights(file) for file in sorted(folder.glob("*.safetensors"))] if folder is not None else []
    if not weights:
        return None
    width = BYTES[model.dtype if model.quantization == "none" else model.quantization]
    return sum(weights) * width / 2**20 + WORKER_MIB


def count_weights(file: Path) -> int:
    """The number of weights in a safetensors file, read from its header: 8 bytes of length, then JSON."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _ask(*arguments: str) -> list[str]:
    """Lines that ``nvidia-smi`` prints; none where there is no such program or it fails."""
    if shutil.which("nvidia-smi") is None:
        return []
    said = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=60, check=False)
    return said.stdout.splitlines() if said.returncode == 0 else []
