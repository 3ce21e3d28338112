"""Words that a shell offers to complete an option or argument with."""

from __future__ import annotations

import re
from pathlib import Path


def methods(incomplete: str) -> list[str]:
    """Registered methods."""
    from bench.method import method_names

    return [name for name in method_names() if name.startswith(incomplete)]


def tasks(incomplete: str) -> list[str]:
    """Registered tasks."""
    from bench.task import task_names

    return [name for name in task_names() if name.startswith(incomplete)]


def launchers(incomplete: str) -> list[str]:
    """Launch backends."""
    from bench.launch.launcher import launcher_names

    return [name for name in launcher_names() if name.startswith(incomplete)]


def keys(incomplete: str) -> list[str]:
    """Keys of the results in the store of the working directory."""
    found = (folder.name for kind in ("evals", "fits") for folder in Path("runs", kind).glob(f"{incomplete}*"))
    return sorted(name for name in found if re.fullmatch(r"[0-9a-f]{16}", name))
