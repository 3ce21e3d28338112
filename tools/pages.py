"""Parts of pages that are written from results: between ``<!-- KIND: NAME -->`` and ``<!-- /KIND -->``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def rewritten(text: str, kind: str, parts: Mapping[str, str], page: str) -> str:
    """A page with its parts of one kind replaced.

    Raises:
        ValueError: it has no marker of the kind, or one whose part does not exist.
    """
    marker = re.compile(rf"(<!-- {kind}: (?P<name>[\w-]+) -->\n).*?(<!-- /{kind} -->)", re.DOTALL)
    names = [match["name"] for match in marker.finditer(text)]
    if not names:
        raise ValueError(f"{page} has no marker <!-- {kind}: NAME --> ... <!-- /{kind} -->: write where its parts go.")
    if unknown := [name for name in names if name not in parts]:
        raise ValueError(f"{page} asks for the part '{unknown[0]}': there are {', '.join(sorted(parts))}.")
    return marker.sub(lambda match: f"{match[1]}\n{parts[match['name']].rstrip()}\n\n{match[3]}", text)


def write(root: Path, pages: Sequence[str], kind: str, parts: Mapping[str, str], check: bool = False) -> int:
    """Write the pages and say which have changed; with ``check`` only say which are stale, and return 1 if any is."""
    stale = 0
    for page in pages:
        text = (root / page).read_text()
        fresh = rewritten(text, kind, parts, page)
        if fresh == text:
            continue
        stale = 1
        print(f"{page} {'is out of date' if check else 'is written'}")
        if not check:
            (root / page).write_text(fresh)
    return int(check and stale)
