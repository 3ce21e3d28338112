"""Mirrors of the hub's layout, made for a test; and a loader that remembers nothing of other tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mirrors import forget


@pytest.fixture
def reading() -> Iterator[None]:
    """What was read before this test is forgotten, and so is what is read in it."""
    forget()
    yield
    forget()
