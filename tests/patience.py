"""How long tests wait for other processes before they give up: a slow machine is no failure."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 300.0  # seconds


def until(condition: Callable[[], Any], pause: float = 0.05) -> Any:
    """Wait until ``condition`` is true, and return what it gave."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(pause)
    return value
