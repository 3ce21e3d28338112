"""Shared by all tests: one thread, plug-ins to put through the contracts, the real data if it is there."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# libraries hand functions to torch.compile on import, which takes a second or two; tests of --compile take the ban back
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
PLUGINS = (
    "softened",
    "bayes_by_backprop",
    "early_stopping",
    "colours",
    "few_notes",
)  # tests/plugins: one of each kind

# hundreds of modules are imported until all tests are collected, and none of it is garbage
gc.disable()

sys.path[:0] = [str(TESTS), str(TESTS / "plugins")]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bench-plugin", action="append", default=[], help="also put this module's methods and tasks to the contracts"
    )


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Load the suite once coverage has begun to count its lines."""
    config = session.config
    deals = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if deals and not config.getoption("--bench-plugin"):  # a mistake in a plug-in's name is told here
        return  # the process that deals the tests to others runs none
    import torch

    from bench.errors import BrokenPlugin
    from bench.registry import load_plugin

    torch.set_num_threads(1)
    with contextlib.suppress(ValueError):  # not in the main thread
        # a run started in the background, or by nohup, inherits ignored signals, and so would every command of a test
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for plugin in PLUGINS:
        load_plugin(plugin)
    for plugin in config.getoption("--bench-plugin"):
        try:
            load_plugin(plugin)
        except (LookupError, BrokenPlugin) as error:
            raise pytest.UsageError(str(error)) from error


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first: with two workers, none is left for the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The six real datasets in the hub's layout: $BENCH_TEST_DATA, or shared/data next to the checkout."""
    folder = Path(os.environ.get("BENCH_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "allenai").is_dir():
        pytest.skip("no mirror of the real datasets: set BENCH_TEST_DATA to a folder in the hub's layout")
    return folder
