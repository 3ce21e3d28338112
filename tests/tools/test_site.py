"""The documentation builds as a site without a warning, where MkDocs is installed (`make docs`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_the_site_builds_and_a_warning_is_an_error(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="MkDocs is not installed: `make docs` installs it")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed: `make docs` installs it")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "api" / "index.html").read_text()
    assert "open_model" in page and "register_method" in page
