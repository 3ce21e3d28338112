"""Files: whole or absent, readable as the umask says, and the right complaint about those that are not."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.process.holder import read_claim
from bench.store.files import (
    DamagedRecord,
    UnreadableRecord,
    no_room,
    publish_folder,
    read_json,
    replacing,
    sha256,
    sweep,
    sync_folder,
    write_file,
)  # fmt: skip
from bench.store.store import is_there


@pytest.fixture(params=[0o022, 0o002, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Several umasks."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_files_have_the_mode_of_the_umask_whatever_a_library_chose(tmp_path: Path, umask: int) -> None:
    def fill(folder: Path) -> None:
        (folder / "posterior.safetensors").touch(0o600)
        (folder / "posterior.safetensors").chmod(0o600)
        (folder / "odd").touch()
        (folder / "odd").chmod(0o4777)

    publish_folder(tmp_path / "result", fill)
    write_file(tmp_path / "a.json", "{}")
    for file in (*(tmp_path / "result").iterdir(), tmp_path / "a.json"):
        assert mode(file) == 0o666 & ~umask


def test_folders_in_a_folder_can_be_entered_and_all_that_is_in_them_is_synced(
    tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, real = set[int](), os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.add(os.fstat(descriptor).st_ino), real(descriptor))[1])

    def fill(folder: Path) -> None:
        inner = folder / "draws" / "000"
        inner.mkdir(parents=True, mode=0o700)
        (folder / "draws").chmod(0o700)
        (inner / "weights").touch(0o600)

    publish_folder(tmp_path / "result", fill)
    place = tmp_path / "result"
    folders = [place, place / "draws", place / "draws/000"]
    assert [mode(folder) for folder in folders] == [0o777 & ~umask] * 3
    assert mode(place / "draws/000/weights") == 0o666 & ~umask
    assert {entry.stat().st_ino for entry in (*folders, place / "draws/000/weights")} <= synced


@pytest.mark.skipif(os.name != "posix", reason="this system's folders have no group to hand on")
def test_a_folder_keeps_the_bit_that_hands_its_group_on(tmp_path: Path) -> None:
    tmp_path.chmod(0o2775)
    publish_folder(tmp_path / "result", lambda folder: (folder / "draws").mkdir())
    for folder in (tmp_path / "result", tmp_path / "result/draws"):
        assert folder.stat().st_mode & stat.S_ISGID == tmp_path.stat().st_mode & stat.S_ISGID


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_fails_in_mid_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    write_file(tmp_path / "a", "old")
    with pytest.raises(error), replacing(tmp_path / "a") as new:
        new.write_text("half")
        raise error
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.EOPNOTSUPP])
def test_a_file_system_that_syncs_no_folder_keeps_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    publish_folder(tmp_path / "result", lambda folder: (folder / "a").touch())
    sync_folder(tmp_path)
    assert (tmp_path / "result" / "a").is_file()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM, errno.EPERM])
def test_what_cannot_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    file = tmp_path / "key" / "facts.json"
    write_file(file, "{}")

    def refuse(*_: object, **__: object) -> bytes:
        raise OSError(number, os.strerror(number), str(file))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UnreadableRecord) as error:
        read_json(file)
    said = str(error.value)
    assert str(file) in said and os.strerror(number) in said and "elete" not in said and "damaged" not in said


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "\udcff", None])
def test_what_is_read_and_wrong_is_damaged(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "key" / "facts.json"
    if content is not None:
        write_file(file, content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DamagedRecord, match=r"is damaged .*: delete the folder") as error:
        read_json(file)
    assert not isinstance(error.value, UnreadableRecord) and str(file.parent) in str(error.value)


def test_old_drafts_are_swept_and_young_ones_and_results_stay(tmp_path: Path) -> None:
    for name in (".key.dead", "key", ".key.young"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / ".other.json.1234.old").touch()
    (tmp_path / ".tmpTyq48E").touch()  # as safetensors names its drafts
    old = time.time() - 100
    for path in (
        tmp_path / "key/file", tmp_path / ".key.dead/file", tmp_path / ".other.json.1234.old", tmp_path / ".tmpTyq48E"
    ):  # fmt: skip
        os.utime(path, (old, old))
    for folder in ("key", ".key.dead", ".key.young"):
        os.utime(tmp_path / folder, (old, old))
    sweep(tmp_path, "*", 50)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".key.young", "key"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "x", "f"), "nothing can be written to f: the disk is full"),
        (OSError(errno.EROFS, "x"), "nothing can be written: it is read-only"),
        (OSError(errno.EDQUOT, "x"), "nothing can be written: the disk quota is used up"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
        (OSError(errno.EACCES, "x"), ""),
        (ValueError("28"), ""),
        (None, ""),
    ],
)
def test_a_disk_that_takes_nothing_more_is_told_from_other_errors(error: Exception | None, said: str) -> None:
    assert said in no_room(error) and bool(no_room(error)) == bool(said)
    if error is not None:
        outer = RuntimeError("outer")
        outer.__cause__ = error
        assert no_room(outer) == no_room(error)


def test_a_store_that_may_not_be_written_to_is_told_from_a_methods_own_error(tmp_path: Path) -> None:
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "runs" / "fits" / ".x"))
    assert no_room(error, tmp_path / "runs") == f"nothing can be written to {error.filename}: Permission denied"
    assert no_room(error, tmp_path / "other") == no_room(error) == ""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_place_of_a_file_keeps_no_reader_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "facts.json")
    with pytest.raises(UnreadableRecord, match=r"facts.json cannot be read \(it is not a regular file\)"):
        read_json(tmp_path / "facts.json")
    with pytest.raises(OSError, match="not a regular file"):
        sha256(tmp_path / "facts.json")
    with pytest.raises(UnreadableRecord):
        is_there(tmp_path)
    os.mkfifo(tmp_path / "0123456789abcdef.json")
    claim = read_claim(tmp_path / "0123456789abcdef.json")
    assert claim is not None and claim["touched"] > 0
