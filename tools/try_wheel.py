"""Build sdist and wheel, install the wheel where no source tree is in sight, and use it as a newcomer would.

    python tools/try_wheel.py [--demo]

The new environment sees the libraries of the one that runs this script, so nothing is downloaded; the suite itself
comes from the wheel alone. ``--demo`` also runs ``bench demo --quick`` and prints its time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def check_data(wheel: Path) -> None:
    """Every file of the packages that git knows is in the wheel."""
    packages = ("bench/", "methods/", "tasks/", "analysis/")
    held = set(zipfile.ZipFile(wheel).namelist())
    if lacking := [name for name in tracked() if name.startswith(packages) and name not in held]:
        raise SystemExit(f"the wheel lacks {', '.join(lacking)}: add it to package-data in pyproject.toml")


def tracked() -> list[str]:
    """The files of the checkout that git knows."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in done.stdout.split("\0") if name]


def build(folder: Path) -> Path:
    """The wheel, made from the unpacked sdist, which is made from the files that git knows."""
    source, out = folder / "source", folder / "dist"
    for name in tracked():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    with tarfile.open(out / _make("build_sdist", source, out)) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return out / _make("build_wheel", unpacked, out)


def _make(kind: str, source: Path, out: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BUILD, kind, str(out)], cwd=source, capture_output=True, text=True, env=_plain()
    )
    if done.returncode:
        raise SystemExit(f"{kind} failed:\n{done.stderr}")
    return done.stdout.splitlines()[-1]


def install(wheel: Path, place: Path) -> Path:
    """A new environment with the wheel and this one's libraries; returns its folder of commands."""
    venv.create(place)
    commands = place / "bin"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)}))
    # a line of a .pth file adds a folder, and not the .pth files in it: an editable install there stays out
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(commands / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--force-reinstall", str(wheel)], check=True, env=_plain())
    return commands


def _plain() -> dict[str, str]:
    """The environment without what would show the source tree."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def use(commands: Path, empty: Path, demo: bool) -> None:
    """Run the installed suite in an empty folder; raises SystemExit for what fails."""
    calls = [
        [str(commands / "python"), "-c", "import bench.grids, tasks; print(list(bench.grids.__path__)[0])"],
        [str(commands / "bench"), "--version"],
        [str(commands / "bench"), "list", "methods"],
        [str(commands / "bench"), "run", "--method", "zero_shot", "--task", "notes_two", "--device", "cpu"],
        [str(commands / "bench"), "report", "--runs", "runs"],
        *([[str(commands / "bench"), "demo", "--quick"]] if demo else []),
    ]
    for call in calls:
        began = time.perf_counter()
        done = subprocess.run(call, cwd=empty, capture_output=True, text=True, env=_plain())
        seconds = time.perf_counter() - began
        shown = " ".join([Path(call[0]).name, *call[1:3]])
        if done.returncode:
            raise SystemExit(f"{shown} failed ({done.returncode}):\n{done.stdout}{done.stderr}")
        if call is calls[0] and str(ROOT) in done.stdout:
            raise SystemExit(f"the source tree is in sight: {done.stdout}")
        print(f"{shown}: {seconds:.1f} s", flush=True)
        if call[-1] == "--quick":
            print(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", action="store_true", help="also run `bench demo --quick`")
    demo = parser.parse_args().demo
    with tempfile.TemporaryDirectory(prefix="bench-wheel-") as name:
        folder = Path(name)
        for part in ("dist", "source", "empty"):
            (folder / part).mkdir()
        began = time.perf_counter()
        wheel = build(folder)
        check_data(wheel)
        commands = install(wheel, folder / "venv")
        print(f"{wheel.name}: built and installed in {time.perf_counter() - began:.1f} s", flush=True)
        use(commands, folder / "empty", demo)


if __name__ == "__main__":
    main()
