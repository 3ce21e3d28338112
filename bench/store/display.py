"""The variant that a report shows first, set by the latest grid that wrote to the store. No result depends on it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from bench.process.reading import regular
from bench.store.files import write_file

FILE = "display.json"


def note_main_variant(runs: Path, label: str) -> None:
    """Remember that a grid marks this variant as its main one (``[variants.X] main = true``)."""
    if main_variant_of(runs) != label:
        write_file(runs / FILE, json.dumps({"main_variant": label}) + "\n")


def main_variant_of(runs: Path) -> str | None:
    """The label that was noted; None where there is none, or where it cannot be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(regular(runs / FILE).read_bytes())
        if isinstance(content, dict) and isinstance(content.get("main_variant"), str):
            return str(content["main_variant"])
    return None
