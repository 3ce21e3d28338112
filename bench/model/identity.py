"""The identity of a model: a hub commit, or the hash of local files, verified when the files are read."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from bench.data.hub import online
from bench.errors import ModelNotUsable, near_miss
from bench.model.formats import EMBEDDED, Source, format_of
from bench.model.prompts import PLAIN
from bench.model.quantization import QUANTIZATIONS
from bench.specs import ModelSpec

DTYPES = ("float32", "bfloat16", "float16")
LOCAL = "local:"
MEMORY = "memory:"
LONGEST = 60  # characters of a readable name

Stats = tuple[tuple[int, ...], ...]
_hashes: dict[tuple[str, Stats], str] = {}


def resolve_model(spec: ModelSpec, path: Path | None) -> ModelSpec:
    """The spec with its identity filled in: the hub commit, or the hash of a local base's files.

    ``path`` is the folder or file of a local model (``spec.id`` is then replaced by ``local:<hash>``).

    Raises:
        ModelNotUsable: an unknown quantisation or dtype, or a model that cannot be found; with the fix.
    """
    for setting, value, known in (
        ("quantization", spec.quantization, QUANTIZATIONS),
        ("dtype", spec.dtype, DTYPES),
    ):
        if value not in known:
            raise ModelNotUsable(f"{setting} '{value}'.{near_miss(value, known)}")
    if spec.id == "embedded":
        return dataclasses.replace(spec, revision=fingerprint(EMBEDDED))
    if path is not None:
        return dataclasses.replace(spec, id=f"{LOCAL}{fingerprint(path, spec.prompt)}", revision="")
    return dataclasses.replace(spec, revision=_hub_commit(spec.id, spec.revision or "main"))


def is_local(path: Path) -> bool:
    """Whether ``path`` is to be read as a local base, rather than as a name on the hub."""
    return path.is_dir() or path.suffix == ".gguf"


def readable_name(path: Path) -> str:
    """What people call a local base, for tables: the name in its config.json, else that of its folder or file.

    No key depends on it. It is not unique, and may be empty.
    """
    name = path.stem if path.is_file() else path.resolve().name
    if path.parent.name == "snapshots":  # of the hub's cache
        name = path.parent.parent.name.removeprefix("models--").replace("--", "/")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        stated = config.get("_name_or_path") if isinstance(config, dict) else None
    except (OSError, ValueError, RecursionError):
        stated = None
    if isinstance(stated, str) and stated:
        name = stated if re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", stated) else Path(stated).name
    return re.sub(r"[^\w./-]+", "-", name).strip("-.")[:LONGEST]


def fingerprint(path: Path, prompt: str = PLAIN) -> str:
    """A hash over the files that define a model (weights, configuration, tokenizer), wherever they are.

    A chat's template counts only where ``prompt`` asks for one. A process hashes files again only if the size, inode or
    times of one have changed.
    """
    files = _files(path, prompt)
    at = (str(path), _stats(files))
    if at not in _hashes:
        whole = hashlib.sha256()
        for name, file in files.items():
            with file.open("rb") as stream:
                whole.update(f"{name}:{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
        _hashes[at] = whole.hexdigest()[:16]
    return _hashes[at]


def _files(path: Path, prompt: str) -> dict[str, Path]:
    files = format_of(path).files(path)
    templates = sorted(path.glob("*.jinja")) if prompt != PLAIN else []
    return files | {file.name: file for file in templates if file.is_file()}


def _stats(files: dict[str, Path]) -> Stats:
    """A stamp that changes when files are touched; unlike mtime, the ctime of an inode cannot be set."""
    found = [file.stat() for file in files.values()]
    return tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in found)


def check_place(spec: ModelSpec, path: Path | None) -> None:
    """Refuse a folder or file as the base of a stored result that was not made on local files, unless it is the same.

    Of a base in memory that shows when it is loaded (bench.model.memory).

    Raises:
        ModelNotUsable: it is another base.
    """
    if path is None or not spec.revision:  # local bases and those in memory have none
        return
    if spec.id == "embedded":
        if path != EMBEDDED:
            raise ModelNotUsable(f"The result was made on the embedded base, and {path} is given: leave out --model.")
        return
    place = path.resolve() if path.is_dir() else path
    if place.parent.name != "snapshots" or place.name != spec.revision:
        raise ModelNotUsable(
            f"The result was made on {spec.id} at {spec.revision}, and nothing shows that {path}"
            " holds the same weights: leave out --model, or give that commit's folder of the hub's cache."
        )


@contextlib.contextmanager
def opened(spec: ModelSpec, path: Path | None, verify: bool = True) -> Iterator[Source]:
    """The base that ``spec`` names, ready to be read inside; its files still are those that the spec was made from.

    Raises:
        ModelNotUsable: they are not, before or after they were read.
    """
    check_place(spec, path)
    place = EMBEDDED if spec.id == "embedded" else path
    if place is None:
        if spec.id.startswith(MEMORY):
            raise ModelNotUsable(f"{spec.id} is a model that was given in memory: give it again, as `model`.")
        if spec.id.startswith(LOCAL):
            raise ModelNotUsable(f"{spec.id} names files, and no path to them was given: pass --model PATH.")
        offline = {} if online() else {"local_files_only": True}
        yield Source(spec.id, spec.id, {"revision": spec.revision, **offline})
        return
    expected = spec.revision if spec.id == "embedded" else spec.id.removeprefix(LOCAL)
    checked = verify and bool(expected) and (spec.id == "embedded" or spec.id.startswith(LOCAL))
    prompt = PLAIN if spec.id == "embedded" else spec.prompt
    before = _verified(place, prompt, expected) if checked else ()
    with format_of(place).opened(place) as source:
        yield source if spec.id.startswith(LOCAL) else dataclasses.replace(source, name=spec.id)
    if checked and _verified(place, prompt, expected) != before:
        raise ModelNotUsable(f"The files of {place} were replaced while they were read: start again.")


def _verified(place: Path, prompt: str, expected: str) -> Stats:
    """The state of files whose hash is ``expected``."""
    before = _stats(_files(place, prompt))
    found = fingerprint(place, prompt)
    if found != expected:
        raise ModelNotUsable(
            f"{place} no longer holds {LOCAL}{expected}: its files have changed since the run was planned (now "
            f"{LOCAL}{found}). Put them back, or plan the run again."
        )
    return before


def _hub_commit(name: str, revision: str) -> str:
    """The commit a hub revision points to, according to the hub, or to the local cache where it cannot be reached."""
    from huggingface_hub import hf_hub_download

    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    answers = online()
    try:
        file = hf_hub_download(name, "config.json", revision=revision, local_files_only=not answers)
        return Path(file).parent.name
    except Exception as error:  # the hub client raises many kinds; all of them mean the same to the user
        where = "on the hub or in the local cache" if answers else "in the local cache, and the hub cannot be reached"
        raise ModelNotUsable(
            f"Model '{name}' at revision '{revision}' was not found {where} "
            f"({type(error).__name__}). Check the name, log in if the model is gated, fetch it first with "
            f"`hf download {name}`, or give the path of a local folder."
        ) from error
