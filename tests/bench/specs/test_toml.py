"""TOML files as people and programs write them."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

import pytest

from bench.specs.toml import LARGEST, parse_toml, read_toml


def test_a_toml_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("a = 1\n[b]\nc = [1.5]\n")
    assert read_toml(file) == {"a": 1, "b": {"c": [1.5]}}


def test_a_missing_toml_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        read_toml(tmp_path / "x.toml")
    assert str(error.value) == f"There is no file {tmp_path}/x.toml."


@pytest.mark.parametrize(
    "content",
    [
        b"a = ",
        b"a = 1\na = 2\n",
        b"\xff\xfea\x00",
        b"\xfe\xff",
        b"a = '\xe9'",
        b"[a\n",
        b"a = " + b"[" * 5000,
        b"a." * 100 + b"b = 1",
        b"a = " + b"9" * 5000,
        b"\x00",
    ],
)
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_toml(file)
    assert str(error.value).startswith(f"{file} cannot be read as TOML: ")


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_byte_order_mark_and_either_end_of_line_are_read(tmp_path: Path, mark: bytes, end: bytes) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(mark + b"a = 'caf\xc3\xa9'" + end + b"b = 2" + end)
    assert read_toml(file) == {"a": "café", "b": 2}


@pytest.mark.parametrize("content", [codecs.BOM_UTF16_LE + "a = 1".encode("utf-16-le"), b"\xe9 = 1"])
def test_another_encoding_is_told_to_save_as_utf_8(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.toml").write_bytes(content)
    with pytest.raises(ValueError, match=r"Save it as UTF-8\.$"):
        read_toml(tmp_path / "x.toml")


def test_what_is_not_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    for path in (tmp_path, tmp_path / "pipe.toml"):
        with pytest.raises(ValueError, match=r"cannot be read: it is not a file\.$"):
            read_toml(path)


def test_a_file_too_large_for_a_grid_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "x.toml").open("wb") as stream:
        stream.truncate(LARGEST + 1)
    with pytest.raises(ValueError, match="it is not a grid or settings file"):
        read_toml(tmp_path / "x.toml")


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, ".".join("a" * 5000) + " = 1", "a = " + "[" * 17 + "]" * 17])
def test_what_is_nested_too_deeply_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"nested more than 16 deep|Cannot|Invalid"):
        parse_toml(text)
