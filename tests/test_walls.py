"""Each outside library has a home, help is quick, records need no torch. `lint-imports` checks import directions."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [file for package in ("bench", "methods", "tasks", "analysis") for file in (ROOT / package).rglob("*.py")]


@functools.cache  # asked for each library
def imports(file: Path) -> set[str]:
    """All modules a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def names(file: Path, package: str) -> bool:
    return any(module == package or module.startswith(package + ".") for module in imports(file))


@pytest.mark.parametrize(
    ("library", "home"),
    [
        (
            "transformers",
            {
                f"bench/model/{name}.py"
                for name in (
                    "adapters",
                    "base",
                    "export",
                    "formats",
                    "outline",
                    "prompts",
                    "forward/packed_attention",
                    "quantization",
                    "remarks",
                )
            },
        ),
        ("peft", {"bench/model/adapters.py"}),
        ("accelerate", {"bench/model/placement.py"}),
        ("bitsandbytes", {"bench/model/quantization.py"}),
        ("datasets", {"bench/data/rows.py"}),
        ("laplace", {"methods/laplace/laplace_torch.py"}),
        ("plotly", {"analysis/page/write.py"}),
        ("jinja2", {"analysis/page/write.py"}),
    ],
)
def test_one_file_knows_each_library(library: str, home: set[str]) -> None:
    users = {str(f.relative_to(ROOT)) for f in FILES if names(f, library)}
    assert users == home


def test_one_file_knows_slurm() -> None:
    commands = re.compile(r"\b(sbatch|squeue|scancel|scontrol)\b")
    users = {str(file.relative_to(ROOT)) for file in FILES if commands.search(file.read_text())}
    assert users == {"bench/launch/backends/slurm.py"}


def test_no_pickle_and_no_remote_code() -> None:
    for file in FILES:
        text = file.read_text()
        assert "pickle" not in imports(file) and "torch.save(" not in text and "torch.load(" not in text
        assert "trust_remote_code=True" not in text


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = "import sys, bench.cli.main as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "numpy", "pandas", "transformers", "datasets", "matplotlib"}


@pytest.mark.parametrize(
    "module", ["bench.specs", "bench.store.records", "bench.process.claim", "bench.launch.submission"]
)
def test_record_modules_need_the_standard_library_only(module: str) -> None:
    code = f"import sys, {module}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "numpy", "pandas", "safetensors"}
