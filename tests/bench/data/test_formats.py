"""Local files as editors, spreadsheets and programs write them; what is wrong with one is named by its line."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.data.formats import parse_file

ROWS = [{"text": 'a, "b"\nc é', "label": "1"}, {"text": " x ", "label": "2"}]
CSV = 'text,label\n"a, ""b""\nc é",1\n x ,2\n'
JSONL = '{"text": "a, \\"b\\"\\nc é", "label": "1"}\n\n{"text": " x ", "label": "2"}'
BOM = b"\xef\xbb\xbf"


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV.encode()),
        ("a.CSV", BOM + CSV.encode()),
        ("a.csv", BOM + CSV.replace("1\n", "1\r\n").replace("label\n", "label\r\n").encode()),
        ("a.csv", CSV.rstrip("\n").encode()),
        ("a.tsv", 'text\tlabel\n"a, ""b""\nc é"\t1\n x \t2\n'.encode()),
        ("a.jsonl", JSONL.encode()),
        ("a.jsonl", BOM + JSONL.replace("\n", "\r\n").encode()),
        ("a.parquet", parquet()),
    ],
)
def test_a_file_is_its_rows_whoever_wrote_it(name: str, content: bytes) -> None:
    assert parse_file(name, content) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"a,b\n1,2\n1\n", r"a\.csv, line 3: it has 1 fields, and the first line names 2 columns"),
        ("a.csv", b"a,b\n1,2,3\n", r"a\.csv, line 2: it has 3 fields"),
        ("a.csv", b"a,a\n1,2\n", "names the columns, each once"),
        ("a.csv", b"a,\n1,2\n", "names the columns, each once"),
        ("a.csv", b'a,b\n"1,2\n', r"a\.csv, line 2: it is not CSV"),
        ("a.csv", "a,é\n".encode("latin-1"), r"a\.csv is not UTF-8 .*: save it as UTF-8"),
        ("a.csv", "a,b\n".encode("utf-16"), r"a\.csv is not UTF-8"),
        ("a.jsonl", b'{"a": 1}\n{"a": }\n', r"a\.jsonl, line 2: it is not JSON"),
        ("a.jsonl", b"[1, 2]\n", r"a\.jsonl, line 1: it holds a list, not an object"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl, line 1: it is not JSON"),
        ("a.parquet", b"PAR1 no PAR1", r"a\.parquet cannot be read"),
        ("a.xlsx", b"", r"a\.xlsx has the ending '\.xlsx': use a \.csv, \.tsv, \.jsonl, \.parquet file"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(name: str, content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_file(name, content)


@pytest.mark.parametrize("content", [b"", b"a,b\n", BOM])
def test_a_file_without_rows_has_none(content: bytes) -> None:
    assert parse_file("a.csv", content) == []


def test_a_field_may_be_long() -> None:
    rows: list[dict[str, Any]] = parse_file("a.csv", b"a,b\n" + b"x" * 200_000 + b",1\n")
    assert len(rows[0]["a"]) == 200_000
