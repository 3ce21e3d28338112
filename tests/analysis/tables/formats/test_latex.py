"""LaTeX: what LaTeX would trip over, and that the whole compiles where there is a TeX installation."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from analysis.records.load import load
from analysis.report import write_report
from analysis.tables.formats.latex import escape, latex
from analysis.tables.results import blocks


def test_special_characters_are_escaped():
    assert escape(r"50 % of a_b & c#d {e} ~ ^ \x $") == (
        r"50 \% of a\_b \& c\#d \{e\} \textasciitilde{} \textasciicircum{} \textbackslash{}x \$"
    )
    assert escape("obqa → arc_c, τ ± 1") == r"obqa $\to$ arc\_c, $\tau$ $\pm$ 1"
    assert escape("é 漢") == "é U+6F22"


def fill(store, model=None):
    for method in ("adamw", "ivon"):
        for seed in (1, 2):
            gain = 0.1 * (method == "ivon") + 0.02 * seed
            store.add(store.spec(method, "one_x", seed), {"accuracy": 0.5 + gain, "nll": 1.0 - gain})
    store.add(store.spec("ivon", "two", 1), {"accuracy": 0.5, "nll": -0.25}, partial=True)


def test_cells_gaps_seeds_and_flags(store):
    fill(store)
    loaded = load(store.root)
    accuracy, nll = (latex("T", [block]) for block in blocks(loaded.results))
    assert r"Accuracy (\%) $\uparrow$ & adamw & 53.0$_{1.0}$ & -- & -- \\" in accuracy
    assert r" & ivon & \textbf{63.0}$_{1.0}$ (+10.0) & 50.0$^{\dagger}$ & 56.5$^{\dagger}$ \\" in accuracy
    assert r"$\dagger$: partial." in accuracy and r"one\_x" in accuracy
    assert r"$-$0.250$^{\dagger}$" in nll and r"($-$0.100)" in nll
    store.add(store.spec("adamw", "one_x", 3), {"accuracy": 0.5, "nll": 1.0})
    text = latex("T", blocks(load(store.root).results))
    assert r"\textbf{63.0}$^{2/3}_{1.0}$" in text and "Superscripts: the seeds that are there" in text


def test_long_tables_are_parted(published_blocks):
    many = published_blocks * 3
    assert latex("T", many).count(r"\begin{table}") == 3


def test_it_compiles(store, tmp_path, published_blocks):
    if shutil.which("pdflatex") is None:
        if os.environ.get("BENCH_REQUIRE_TEX"):
            pytest.fail("BENCH_REQUIRE_TEX is set and there is no pdflatex")
        pytest.skip("no pdflatex: apt-get install texlive-latex-base texlive-latex-recommended")
    fill(store)
    write_report(store.root, tmp_path / "report")
    published = latex("Published & more", published_blocks)
    (tmp_path / "published.tex").write_text(published)
    (tmp_path / "main.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs,graphicx}\n\\begin{document}\n"
        "\\input{report/tables/table1.tex}\n\\input{published.tex}\n\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / "main.pdf").stat().st_size > 10_000
