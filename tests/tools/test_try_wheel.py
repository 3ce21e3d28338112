"""The suite works from its wheel, with no source tree in sight."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools import try_wheel

pytestmark = pytest.mark.slow


def test_the_wheel_runs_without_the_source_tree(repository: Path) -> None:
    done = subprocess.run([sys.executable, "tools/try_wheel.py"], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "bench --version" in done.stdout and "bench report" in done.stdout


def test_a_data_file_that_is_left_out_is_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        for name in try_wheel.tracked():
            if name != "tasks/notes/words.txt":
                wheel.writestr(name, "")
    with pytest.raises(SystemExit, match=r"the wheel lacks tasks/notes/words\.txt: add it to package-data"):
        try_wheel.check_data(tmp_path / "x.whl")
