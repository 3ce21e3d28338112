"""One family's work as every launcher does it: a runner made from plain values, and how a family ended."""

from __future__ import annotations

import contextlib
import enum
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from bench.process.claim import Held, Lost
from bench.process.holder import Worker
from bench.process.progress import FamilyProgress
from bench.process.stop import Stopped
from bench.run.execution import Execution
from bench.specs import Family
from bench.store.files import NoRoom, no_room
from bench.store.store import Store

if TYPE_CHECKING:
    import torch

    from bench.run.runner import Runner

logger = logging.getLogger(__name__)


class Outcome(enum.StrEnum):
    """The outcome of a family.

    HELD: another process is at work on it. STOPPED: this one was asked to stop. BLOCKED: the store takes nothing more,
    so no other family can be computed either.
    """

    DONE = enum.auto()
    FAILED = enum.auto()
    HELD = enum.auto()
    STOPPED = enum.auto()
    BLOCKED = enum.auto()


def make_runner(
    store: Store, execution: Execution, stop: Callable[[], str] = lambda: "", worker: Worker | None = None
) -> Runner:
    """The runner of this process; it keeps its base model from one family to the next.

    Raises:
        LookupError, ValueError, ImportError: a plug-in or the device cannot be used.
    """
    import torch

    from bench.data.file_task import load_extension
    from bench.run.runner import Runner

    for plugin in execution.plugins:
        load_extension(plugin)
    # one thread by default: sums are then taken in one order, whatever the machine
    torch.set_num_threads(execution.threads)
    device = choose_device(execution.device)
    if device.index is not None:
        torch.cuda.set_device(device)  # graphs are recorded on the current one
    if execution.graphs and device.type != "cuda":
        raise ValueError(f"--graphs records CUDA graphs, and the device is {device}: leave it out.")
    if execution.graphs and execution.recompute:
        raise ValueError("--graphs and --gradient-checkpointing exclude each other: leave one out.")
    if execution.compile and execution.recompute:
        raise ValueError("--compile and --gradient-checkpointing exclude each other: leave one out.")
    for option, given in (("--graphs", execution.graphs), ("--compile", execution.compile)):
        if given and execution.device_map is not None:
            raise ValueError(f"{option} and --device-map exclude each other: leave one out.")
    return Runner(
        store=store,
        source=execution.source,
        model_path=execution.model_path,
        adapter_path=execution.adapter_path,
        device=device,
        device_map=execution.device_map,
        eval_every=execution.eval_every,
        graphs=execution.graphs,
        compile=execution.compile,
        recompute=execution.recompute,
        track=execution.track,
        checkpoint_seconds=execution.checkpoint_seconds,
        claim_seconds=execution.claim_seconds,
        stop=stop,
        worker=worker or Worker(),
    )


def choose_device(name: str) -> torch.device:
    """The device of that name: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        ValueError: this machine has no such GPU.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    elif name != "cpu":
        number, count = int(name.partition(":")[2] or 0), torch.cuda.device_count()
        if number >= count:
            raise ValueError(
                f"--device {name}: torch sees {count} GPU(s) here. Choose cpu or auto, or a lower number, or check "
                "the driver and that torch was built for CUDA."
            )
    return torch.device(name)


@contextlib.contextmanager
def record_failure(store: Store, family: Family) -> Iterator[None]:
    """Record an error that comes before the work itself, such as a missing plug-in, as a failure of the family."""
    try:
        yield
    except (Exception, SystemExit) as error:
        done = store.complete(family.runs)
        for run in family.runs:
            if run not in done:
                store.fail(run, error, Worker().describe())
        raise


def work(runner: Runner, family: Family, sink: Callable[[float, str], None], wait: bool = True) -> tuple[Outcome, str]:
    """Compute the missing results of a family: (how it ended, one sentence for the user)."""
    try:
        runner.run(family, FamilyProgress(family.label, len(family.runs), sink), wait)
    except (Held, Lost) as holder:
        return Outcome.HELD, f"{family.label}: {holder}"
    except Stopped as reason:
        return Outcome.STOPPED, f"{family.label}: {reason}"
    except NoRoom as error:
        return Outcome.BLOCKED, f"{family.label}: {error}"
    except (Exception, SystemExit) as error:  # its trace is in the store; the other families go on
        if why := no_room(error, runner.store.root):
            return Outcome.BLOCKED, f"{family.label}: {why}"
        return Outcome.FAILED, f"{family.label}: {type(error).__name__}: {error}"
    return Outcome.DONE, family.label
