"""A hook of MkDocs (mkdocs.yml): roles of docstrings, such as ``:meth:`fit```, show as code."""

from __future__ import annotations

import re
from typing import Any

ROLE = re.compile(r":(?:func|class|meth|attr|mod|data):<code>")


def on_page_content(html: str, **_: Any) -> str:
    """The page without the names of roles."""
    return ROLE.sub("<code>", html)
