"""The raw rows of one split: from the hub, a local mirror of its layout, a file of the task, or the task's own code.

A local file is read as it is now: the bytes that are hashed are the bytes that are parsed. A path is a name and never a
pattern, and no copy of the rows is kept on disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from bench.data.formats import parse_file, parse_parquet
from bench.data.hub import SECONDS, online
from bench.errors import one_line
from bench.task import Task

RawRow = Mapping[str, Any]
UNANSWERED = f"; the hub did not answer within {SECONDS:.0f} seconds, so only its local cache was read"


class Origin(StrEnum):
    """The origin of rows, which decides how their identity is verified."""

    HUB = "hub"  # a pinned commit
    MIRROR = "local mirror"
    GENERATED = "generated"  # by the task's own code
    FILE = "local file"  # that the task names


@dataclasses.dataclass(frozen=True)
class Content:
    """The raw rows of a split before they are checked.

    Attributes:
        origin: where they come from.
        name: what messages call them.
        digest: changes whenever the rows may have changed within this process.
        parse: the rows.
    """

    origin: Origin
    name: str
    digest: str
    parse: Callable[[], Sequence[RawRow]]

    @classmethod
    def of_file(cls, file: Path) -> Content:
        """A local file, as it is now."""
        content = _bytes(file)
        digest = hashlib.sha256(content).hexdigest()
        return cls(Origin.FILE, str(file), digest, lambda: parse_file(str(file), content))


def find_rows(task: Task, split: str, data_dir: Path | None) -> Content:
    """The content of a split of ``task``; ``data_dir`` is a mirror of the hub's layout, or None for the hub.

    Raises:
        FileNotFoundError: the rows are not there.
        OSError: a file cannot be read.
        ValueError: (from ``parse``) a file is not the parquet that it should be.
    """
    if split in task.files:
        return Content.of_file(task.files[split])
    generated = _generate(task, split)
    if generated is not None:
        return generated
    if data_dir is None:
        name = f"{task.source} ({task.config or 'default'}, {split})"
        return Content(Origin.HUB, name, "", lambda: _from_hub(task.source, task.config, task.revision, split, name))
    where = data_dir.joinpath(*task.source.split("/"), task.config or "")
    files = _split_files(where, split)
    if not files:
        raise FileNotFoundError(
            f"There is no {split}-*.parquet in {where}. --data-dir expects the hub's layout: "
            f"DIR/{task.source}/{task.config or ''}".rstrip("/")
            + f"/{split}-00000-of-00001.parquet."
        )
    contents = [(str(file), _bytes(file)) for file in files]
    name = str(files[0]) if len(files) == 1 else str(where / f"{split}-*.parquet")
    digest = hashlib.sha256()
    for _, content in contents:
        digest.update(hashlib.sha256(content).digest())
    return Content(
        Origin.MIRROR, name, digest.hexdigest(), lambda: [row for file in contents for row in parse_parquet(*file)]
    )


def makes_rows(task: Task) -> bool:
    """Whether a task makes its own rows, or names the local files that hold them."""
    return bool(task.files) or type(task).generate is not Task.generate


def _split_files(where: Path, split: str) -> list[Path]:
    """The parquet files of a split in the order of their names. Names are compared, not matched as patterns."""
    try:
        names = sorted(file.name for file in where.iterdir() if file.name.endswith(".parquet"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(where, error) from error
    parts = [name for name in names if name.startswith(f"{split}-")]
    return [where / name for name in parts or names if name in parts or name == f"{split}.parquet"]


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {file}.") from None
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(path: Path, error: OSError) -> OSError:
    return OSError(f"{path} cannot be read ({error.strerror or error}): see to that, then run the same command again.")


def _generate(task: Task, split: str) -> Content | None:
    """The rows that a task makes itself, made once in a process: the plan and the training see the same ones."""
    made = (type(task), split)
    if made not in _generated:
        try:
            found = task.generate(split)
            rows = None if found is None else list(found)
        except Exception as error:  # of any kind: the method is the task author's
            raise ValueError(
                f"{task.name}/{split}: {type(task).__qualname__}.generate raised {one_line(error)}. Correct it."
            ) from error
        _generated[made] = None
        if rows is not None:
            digest = hashlib.sha256(repr(rows).encode(errors="backslashreplace")).hexdigest()
            _generated[made] = Content(Origin.GENERATED, f"{task.name}/{split}", digest, lambda: rows)
    return _generated[made]


_generated: dict[tuple[type[Task], str], Content | None] = {}


@contextlib.contextmanager
def _cache_alone() -> Iterator[None]:
    """Datasets come from the hub's cache on this machine inside: nothing is asked for, and nothing is tried again."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


@functools.lru_cache(maxsize=64)
def _from_hub(source: str, config: str | None, revision: str, split: str, name: str) -> list[RawRow]:
    import datasets

    datasets.disable_progress_bars()
    answers = online()
    try:
        with contextlib.nullcontext() if answers else _cache_alone():
            return list(datasets.load_dataset(source, config, revision=revision, split=split))
    except Exception as error:  # the hub client raises many kinds; all of them mean the same to the user
        raise FileNotFoundError(
            f"{name} could not be loaded from the hub at revision {revision[:12]} "
            f"({type(error).__name__}: {error}{'' if answers else UNANSWERED}). Offline, give a local mirror with "
            "--data-dir DIR."
        ) from error
