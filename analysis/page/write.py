"""``report.html``: the opening table, the leaderboard, the tau slider and the figures in one file that opens offline.

Everything the page shows is computed before; its script chooses, sorts and draws. Text from records is data to it:
Jinja escapes it, the script sets text and never markup, and the page's content security policy runs no other script and
fetches nothing.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from analysis.figures.gallery import Kind, Picture
from analysis.page.data import page_data
from analysis.statistics.differences import compare
from analysis.statistics.study import Study
from analysis.statistics.variants import outcomes
from analysis.tables.formats.marks import MARKS, UNMARKED
from analysis.tables.formats.text import write_text
from analysis.tables.headline import headline
from analysis.tables.preamble import facts_and_warnings
from analysis.tables.variants import parts


def write_page(study: Study, out: Path, kinds: Sequence[Kind], figures: Path, notes: Sequence[str]) -> Path:
    """Write ``out/report.html``; the files of ``figures`` are there already."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    folder = files("analysis.page") / "template"
    scripts = [get_plotlyjs(), (folder / "page.js").read_text("utf-8")]
    loader = PackageLoader("analysis.page", "template")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    facts, warnings = facts_and_warnings(study.runs)
    text = environment.get_template("page.html").render(
        style=Markup((folder / "page.css").read_text("utf-8")),
        scripts=[Markup(script) for script in scripts],
        hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
        data=page_data(study, out),
        headlines=headline(study, study.once(compare)[0]),
        variants=parts(study.once(outcomes)[0]),
        marks=MARKS,
        unmarked=UNMARKED,
        baseline=study.baseline,
        facts=facts,
        warnings=warnings,
        notes=list(dict.fromkeys(notes)),
        figures=[
            {"heading": kind.heading, "images": [_image(picture, figures, out) for picture in kind.pictures]}
            for kind in kinds
            if kind.pictures
        ],
    )
    return write_text(out / "report.html", text)


def _image(picture: Picture, figures: Path, out: Path) -> dict[str, str]:
    """A saved figure, as part of the page."""
    encoded = base64.b64encode((figures / f"{picture.name}.png").read_bytes()).decode()
    width = round(100 * picture.width)  # CSS pixels: half of the file's
    return {
        "pdf": quote(Path(os.path.relpath(figures / f"{picture.name}.pdf", out)).as_posix()),
        "caption": picture.caption,
        "source": f"data:image/png;base64,{encoded}",
        "width": str(width),
    }
