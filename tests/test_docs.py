"""Documentation names files that exist, and pages link to pages and headings that exist."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
TREE = re.compile(r"`((?:bench|methods|tasks|analysis|tools|tests|docs)/[\w./-]*)`")
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#]*)(?:#([^)]*))?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        pytest.skip("a changelog names what is gone")
    missing = [name for name in TREE.findall(page.read_text()) if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    for target, heading in LINK.findall(page.read_text()):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name} links to {target}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}
            assert heading in anchors, f"{page.name} links to {target}#{heading}"


def test_the_badges_say_what_pyproject_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shown = {
        "python": project["project"]["requires-python"].removeprefix(">=") + "+",
        "licence": project["project"]["license"],
        "types": "mypy strict" if project["tool"]["mypy"]["strict"] else "",
    }
    for name, value in shown.items():
        assert f"<title>{name}: {value}</title>" in (ROOT / f"docs/figures/badge_{name}.svg").read_text()
        assert f"![{name}: {value}](docs/figures/badge_{name}.svg)" in (ROOT / "README.md").read_text()


def test_the_navigation_has_every_page() -> None:
    named = re.findall(r"^ +- [^:\n]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


def test_troubleshooting_quotes_what_the_suite_says() -> None:
    text = "".join(file.read_text() for package in ("bench", "methods") for file in (ROOT / package).rglob("*.py"))
    joined = re.sub(r'"\s*f?r?"', "", text)  # literals that Python joins
    quoted = re.findall(r"^### `(.*)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(quoted) >= 20
    assert [message for message in quoted if message not in joined] == []


@pytest.mark.slow
def test_pytest_called_by_name_runs_one_folder() -> None:
    """As CONTRIBUTING says: without the checkout on the path, the folders of tests must not stand for the packages."""
    pytest_by_name = str(Path(sys.executable).with_name("pytest"))
    done = subprocess.run(
        [pytest_by_name, "--collect-only", "tests/bench/specs"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
