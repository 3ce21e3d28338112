"""Names become parts of file names and CSV cells one to one."""

from __future__ import annotations

import itertools

import pytest

from analysis.records.names import lost_as_number, printable, short_hash, slug

WORDS = ("lr1e+3", "lr1e-3", "lr1e_3", "lr1e.3", "lr1e 3", "LR1E_3", "a", "a-b", "a b", "b", "", "..", "é", "-")


def test_unlike_words_have_unlike_slugs_whatever_the_file_system_makes_of_capitals():
    slugs = {(one, two): slug("clean", one, two) for one, two in itertools.product(filter(None, WORDS), WORDS)}
    lower = [name.lower() for name in slugs.values()]
    assert len(set(lower)) == len(lower)
    assert all("/" not in name and " " not in name and not name.startswith(".") for name in lower)


def test_plain_words_stay_legible():
    assert slug("clean", "embedded", "tuned") == "clean-embedded-tuned"
    assert slug("clean", "embedded", "lr1e+3") == "clean-embedded-lr1e+3"
    assert slug("clean", "../../etc") != slug("clean", "etc") and "/" not in slug("../../etc")


@pytest.mark.parametrize("text", ["4203e969", "12e45678", "1e10", "007", "1234567890123456", "1.50", "+5", "1E5", ".5"])
def test_text_that_a_spreadsheet_would_change(text):
    assert lost_as_number(text)


@pytest.mark.parametrize("text", ["89265710", "1", "0", "0.5", "-3", "b90e1687", "1 2", "2026-01-01", "", "e5", "1e"])
def test_text_that_it_shows_as_it_is(text):
    assert not lost_as_number(text)


def test_ids_are_never_changed_by_a_spreadsheet():
    found = [short_hash(str(number)) for number in range(3000)]
    assert not any(map(lost_as_number, found)) and len(set(found)) == 3000 and {len(name) for name in found} == {8}


def test_control_characters_are_shown_by_their_numbers():
    assert printable("a\x1b[31mb\x07\u202e") == "a\\x1b[31mb\\x07\\x202e"
