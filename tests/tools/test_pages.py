"""Parts of pages are replaced between their markers, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.pages import rewritten, write

PAGE = "before\n<!-- demo: one -->\nold\n<!-- /demo -->\n<!-- small: one -->\nkept\n<!-- /small -->\nafter\n"


def test_a_part_is_replaced_and_those_of_another_kind_stay() -> None:
    assert rewritten(PAGE, "demo", {"one": "new\n\n"}, "a.md") == PAGE.replace("old", "\nnew\n")


def test_a_page_without_markers_and_one_that_asks_for_too_much_are_refused() -> None:
    with pytest.raises(ValueError, match=r"README\.md has no marker <!-- demo: NAME -->"):
        rewritten("text", "demo", {}, "README.md")
    with pytest.raises(ValueError, match="asks for the part 'one': there are a, b"):
        rewritten(PAGE, "demo", {"a": "", "b": ""}, "README.md")


def test_a_stale_page_is_written_once_and_a_check_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.md").write_text(PAGE)
    asked = (tmp_path, ("a.md",), "demo", {"one": "new"})
    assert write(*asked, check=True) == 1 and (tmp_path / "a.md").read_text() == PAGE
    assert write(*asked) == 0 and "new" in (tmp_path / "a.md").read_text()
    assert write(*asked, check=True) == 0
    assert capsys.readouterr().out == "a.md is out of date\na.md is written\n"
