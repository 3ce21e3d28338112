"""The pages' tables of results/small are those that its records give, without network, weights or a GPU."""

from __future__ import annotations

from tools import write_results
from tools.write_results import ROOT, pages, written


def test_the_pages_are_what_the_records_say() -> None:
    found = list(pages(ROOT))
    assert all(old == new for _, old, new in found)
    assert any(" ▲" in new and "**holds**" in new for _, _, new in found)


def test_a_stale_page_is_written_again() -> None:
    page = "before\n<!-- small: held -->\nold\n<!-- /small -->\nafter\n"
    assert written(page, {"held": "new\n\n"}) == page.replace("old", "new")
    assert write_results.MARKER.sub("", page) == "before\n\nafter\n"
