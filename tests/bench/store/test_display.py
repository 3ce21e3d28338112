"""The variant that a grid marks as the main one reaches the report, and nothing in that file can stop one."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import bench

from analysis.statistics.study import study
from bench.store.display import FILE, main_variant_of, note_main_variant

GRID = (
    'methods = ["bayes_optimal"]\ntasks = ["notes_two"]\nseeds = [1]\n'
    "[variants.a]\n[variants.b]\nbayes_optimal = {}\nmain = true\n"
)


def test_a_label_is_remembered_and_replaced(tmp_path: Path) -> None:
    assert main_variant_of(tmp_path) is None
    note_main_variant(tmp_path / "runs", "tuned")
    note_main_variant(tmp_path / "runs", "long")
    assert main_variant_of(tmp_path / "runs") == "long"
    assert [file.name for file in (tmp_path / "runs").iterdir()] == [FILE]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"3", b"null", b'{"main_variant": 3}', b"{}", b"\xff\xfe", b"[" * 100_000]
)
def test_what_cannot_be_read_counts_as_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert main_variant_of(tmp_path) is None


def test_a_grid_notes_its_main_variant_and_the_study_opens_with_it(tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text(GRID)
    bench("grid", "g.toml", "--dry-run", cwd=tmp_path)
    assert not (tmp_path / "runs").exists()
    bench("grid", "g.toml", cwd=tmp_path)
    assert study(tmp_path / "runs").main_variant == "b"
    assert study(tmp_path / "runs", main="a").main_variant == "a"
    note_main_variant(tmp_path / "runs", "gone")
    assert study(tmp_path / "runs").main_variant == "a", "a label without results is left alone"
