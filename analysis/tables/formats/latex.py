"""Table 1 as LaTeX: booktabs, standard errors as subscripts. Needs the packages booktabs and graphicx.

The files are fragments, to be put into a paper with ``\\input``.
"""

from __future__ import annotations

from collections.abc import Sequence

from analysis.tables.results import Block, Blocks

LONGEST = 45  # rows of a table that fit on a page
HEAD = "% \\usepackage{booktabs,graphicx}\n"
_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "±": r"$\pm$", "×": r"$\times$", "→": r"$\to$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
    "τ": r"$\tau$", "λ": r"$\lambda$", "\n": " ",
}  # fmt: skip


def escape(text: str) -> str:
    """Text that LaTeX prints as it is; a character that its fonts lack is shown by its number."""
    return "".join(_ESCAPES.get(c) or (c if c.isprintable() and ord(c) < 256 else f"U+{ord(c):04X}") for c in text)


def results_latex(found: Blocks) -> str:
    """Table 1 of a store: the tables of every section."""
    return HEAD + "\n".join(latex(section.title, inner) for section, inner in found)


def latex(title: str, blocks: Sequence[Block]) -> str:
    """One or more ``table`` environments: a block per metric, parted by rules, as many to a table as fit on a page."""
    pages: list[list[Block]] = []
    for block in blocks:
        if pages and sum(len(b.rows) for b in pages[-1]) + len(block.rows) <= LONGEST:
            pages[-1].append(block)
        else:
            pages.append([block])
    return "\n".join(_table(title, page) for page in pages)


def _table(title: str, page: Sequence[Block]) -> str:
    columns = list(dict.fromkeys(column for block in page for column in block.columns))
    bodies = [_body(block, columns) for block in page]
    heading = " & ".join(["", "method", *map(escape, columns)])
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_caption(title, page)}}}",
            r"\centering",
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{ll{'r' * len(columns)}}}",
            r"\toprule",
            heading + r" \\",
            r"\midrule",
            "\n\\midrule\n".join(bodies),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def _caption(title: str, page: Sequence[Block]) -> str:
    bases = list(dict.fromkeys(block.baseline for block in page if block.baseline))
    said = [f"{escape(title)}.", "Means over seeds; subscripts are standard errors."]
    said += [f"In parentheses: the change against {escape(', '.join(bases))}."] if bases else []
    if any(block.seeds(row, column) for block in page for row in block.rows for column in block.columns):
        said.append("Superscripts: the seeds that are there, of those that should be.")
    flags = dict.fromkeys(flag for block in page for cell in block.cells.values() for flag in cell.flags)
    said += [rf"$\dagger$: {escape(', '.join(flags))}."] if flags else []
    return " ".join(said)


def _body(block: Block, columns: Sequence[str]) -> str:
    lines = []
    for number, row in enumerate(block.rows):
        cells = [_cell(block, row, column) for column in columns]
        lines.append(" & ".join([escape(block.metric.heading) if number == 0 else "", escape(row), *cells]) + r" \\")
    return "\n".join(lines)


def _cell(block: Block, row: str, column: str) -> str:
    cell = block.cells.get((row, column))
    if cell is None:
        return "--"
    mean = block.metric.show(cell.mean)
    text = rf"\textbf{{{mean}}}" if block.best(row, column) else mean.replace("-", "$-$")
    marks = block.seeds(row, column).removesuffix(" seeds").replace(" of ", "/") + (r"\dagger" if cell.flags else "")
    scripts = (f"^{{{marks}}}" if marks else "") + ("" if cell.sem is None else f"_{{{block.metric.show(cell.sem)}}}")
    text += f"${scripts}$" if scripts else ""
    change = block.signed(row, column).replace("-", "$-$")
    return f"{text} ({change})" if change else text
