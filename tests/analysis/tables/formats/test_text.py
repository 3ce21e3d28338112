"""CSV cells and Markdown text that others wrote: nothing is run, nothing is markup, nothing moves the terminal."""

from __future__ import annotations

import csv
import io
import json

import pytest

from analysis.records.load import load
from analysis.records.names import printable
from analysis.report import TABLES
from analysis.statistics.study import study
from analysis.tables.formats.latex import results_latex
from analysis.tables.formats.markdown import bold, escape, table
from analysis.tables.formats.table import show
from analysis.tables.formats.text import cell, csv_text
from analysis.tables.preamble import preamble
from analysis.tables.results import sections
from bench.specs import ModelSpec, RunSpec, build, key

HOSTILE = (
    "=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("x")', "=1+1|x", "%0A=1",
    "<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "a</td><td>", "<!--", "&lt;b&gt;<b>", "<svg/onload=x>",
    "[x](javascript:alert(1))", "![x](http://x/y.png)", "`code`", "**bold**",
    "\x1b[31mred", "\x1b]0;title\x07", "\x9b31m", "a\nb", "a\x00b", "\u202eevil", "../../etc/passwd", "a|b",
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_a_csv_cell_is_text_and_nothing_else(text):
    content = csv_text(["a", "b"], [{"a": text, "b": 1.0}])
    ((_, _), (shown, number)) = csv.reader(io.StringIO(content, newline=""))
    assert shown.removeprefix("'") == printable(text) and number == "1.000000"
    assert not shown.startswith(tuple("=+-@\t\r"))


def test_numbers_stay_numbers():
    assert [cell(value) for value in (None, 1, -0.5, -0.0, "adamw", "1 2", "12e45678", "-x")] == [
        "", "1", "-0.500000", "0.000000", "adamw", "1 2", "'12e45678", "'-x",
    ]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_text_as_it_is(text):
    shown = escape(text)
    assert "<" not in shown and ">" not in shown and all(c.isprintable() for c in shown)
    assert "](" not in shown.replace("\\[", "") or "\\[" in shown
    assert table(["a"], [[text]]).count("\n") == 3  # one line per row
    assert bold("x") == "**x**" and escape(bold("x")) == "**x**"


def rename(folder, change) -> None:
    """Another spec under its own key, as one who knows the format would write it."""
    spec = json.loads((folder / "spec.json").read_text())
    change(spec)
    (folder / "spec.json").write_text(json.dumps(spec))
    folder.rename(folder.parent / key(build(RunSpec, spec)))


FIELDS = {
    "method": lambda spec, text: spec.update(method=text),
    "task": lambda spec, text: spec["fit"]["data"].update(task=text),
    "eval_task": lambda spec, text: spec["data"].update(task=text),
    "split": lambda spec, text: spec.update(split=text),
    "variant": lambda spec, text: spec.update(variant=text),
    "protocol": lambda spec, text: spec.update(protocol=text),
    "model": lambda spec, text: spec["fit"]["model"].update(id=text),
    "revision": lambda spec, text: spec["data"].update(revision=text),
    "metric": None,
}


@pytest.mark.parametrize("field", FIELDS)
def test_no_hostile_name_reaches_a_file(store, field):
    """27 texts in each of 9 fields: the record is left out, or its text is harmless where it is shown."""
    store.add(store.spec())
    for number, text in enumerate(HOSTILE):
        folder = store.add(store.spec("ivon", seed=number + 10))
        if field == "metric":
            facts = json.loads((folder / "facts.json").read_text())
            (folder / "facts.json").write_text(json.dumps({**facts, "metrics": {**facts["metrics"], text: 1.0}}))
        else:
            rename(folder, lambda spec, text=text: FIELDS[field](spec, text))
    assert_harmless(store.root)
    assert len(load(store.root).excluded) >= 20


def assert_harmless(root) -> None:
    whole = study(root)
    shown = [show(part, whole) for part in TABLES]
    for part in shown:
        if part.csv is not None:
            for row in csv.reader(io.StringIO(part.csv[1], newline="")):
                assert not [c for c in row if c[:1] in tuple("=+@\t\r") or (c[:1] == "-" and not c[1:2].isdigit())]
    text = "\n".join([preamble(whole.runs), *(part.markdown for part in shown)])
    assert "<" not in text.replace("\\<", "") and "\x1b" not in text and "\x9b" not in text
    assert all(line.isprintable() for line in text.split("\n"))
    assert all(sentence.isprintable() for sentence in whole.runs.excluded)
    assert results_latex(sections(whole)).count("\n=") == 0


def test_options_and_devices_are_harmless_too(store):
    """They may hold any printable text."""
    for number, text in enumerate(t for t in HOSTILE if t.isprintable()):
        spec = store.spec("ivon", seed=number, options={"note": text}, model=ModelSpec())
        store.add(spec, warnings=(text,))
    assert_harmless(store.root)
