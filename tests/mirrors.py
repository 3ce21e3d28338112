"""Small mirrors of the hub's layout, task files, and what the loader keeps in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.data import rows, splits
from bench.task import TASKS


def forget() -> None:
    """Empty the loader's memory."""
    splits._loaded.clear()
    rows._generated.clear()
    rows._from_hub.cache_clear()


@contextlib.contextmanager
def no_task_stays() -> Iterator[None]:
    """Tasks that are registered inside are unknown afterwards."""
    before = dict(TASKS._classes)
    yield
    TASKS._classes.clear()
    TASKS._classes.update(before)


TOML = """
prompt = "Which team? {text} Choices: {options} Answer:"
label = "team"
labels = ["billing", "login"]
options = ["Billing.", "Login."]
[splits]
train = "train.csv"
validation = "validation.csv"
"""


def tickets(folder: Path, toml: str = TOML, rows: int = 6, name: str = "tickets.toml") -> Path:
    """A task file and its two CSV files."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", rows), ("validation", 4)):
        lines = [f"{split} {n},{('billing', 'login')[n % 2]}" for n in range(count)]
        (folder / f"{split}.csv").write_text("\n".join(["text,team", *lines]) + "\n")
    (folder / name).write_text(toml)
    return folder / name


def winogrande(count: int, shift: int = 0) -> list[dict[str, str]]:
    """Rows of WinoGrande; ``shift`` moves every right answer by so many places."""
    return [
        {"sentence": f"Sentence {n} has a _ here.", "option1": "Ann", "option2": "Bea", "answer": "12"[(n + shift) % 2]}
        for n in range(count)
    ]


def write_rows(file: Path, content: list[dict[str, Any]]) -> Path:
    """A parquet file of rows, whose folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(content), file)
    return file


def mirror(folder: Path, shift: int = 0, **counts: int) -> Path:
    """A mirror of WinoGrande-S, written or replaced; ``counts`` are rows by split, the official ones unless given."""
    for split, count in (counts or {"train": 640, "validation": 1267}).items():
        file = folder / "allenai/winogrande/winogrande_s" / f"{split}-00000-of-00001.parquet"
        write_rows(file, winogrande(count, shift))
    return folder
