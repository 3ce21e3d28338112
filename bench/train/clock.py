"""The training clock: seconds of optimization, without evaluation, logging and checkpoints."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch


class Clock:
    """Seconds of training. It stands still until :meth:`running`, and inside :meth:`paused`."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device = device
        self._since: float | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The clock runs inside; on the way out, also by an exception, it stands still."""
        self._since = time.perf_counter()
        try:
            yield
        finally:
            self._stop()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The clock stands still inside, once the device has finished its work. After an exception it stays so."""
        self._stop()
        yield
        self._since = time.perf_counter()

    def _stop(self) -> None:
        if self._since is None:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds += time.perf_counter() - self._since
        self._since = None
