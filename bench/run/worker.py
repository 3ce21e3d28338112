"""One family's work as every launcher does it: a runner made from plain values, and how a family ended."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bench.data.splits import DataSource
from bench.process.claim import SECONDS, Held, Lost, Worker
from bench.process.progress import FamilyProgress
from bench.process.stop import Stopped
from bench.specs import Family

if TYPE_CHECKING:
    from bench.run.runner import Runner

DONE, FAILED, HELD, STOPPED = "done", "failed", "held", "stopped"  # how a family may end


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker needs to know besides its families; plain values, so it can be sent to a process or a file."""

    runs: Path
    source: DataSource = dataclasses.field(default_factory=DataSource)
    model_path: Path | None = None
    device: str = "auto"
    threads: int = 1
    eval_every: int = 0
    graphs: bool = False
    checkpoint_seconds: float = 30.0
    claim_seconds: float = SECONDS
    plugins: tuple[str, ...] = ()


def make_runner(
    job: Job, log: Callable[[str], None], stop: Callable[[], str] = lambda: "", worker: Worker | None = None
) -> Runner:
    """The runner of this process; it keeps its base model from one family to the next."""
    import torch

    from bench.data.file_task import load_extension
    from bench.run.runner import Runner
    from bench.store.store import Store

    for plugin in job.plugins:
        load_extension(plugin)
    # one thread by default: sums are then taken in one order, whatever the machine
    torch.set_num_threads(job.threads)
    device = job.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device != "cpu":
        number, count = torch.device(device).index or 0, torch.cuda.device_count()
        if number >= count:
            raise ValueError(
                f"--device {device}: torch sees {count} GPU(s) here. Give --device cpu or auto, or a lower number, or "
                "see to the driver and to a CUDA build of torch."
            )
    if job.graphs and torch.device(device).type != "cuda":
        raise ValueError(f"--graphs records CUDA graphs, and the device is {device}: leave it out.")
    return Runner(
        store=Store(job.runs),
        source=job.source,
        model_path=job.model_path,
        device=torch.device(device),
        eval_every=job.eval_every,
        graphs=job.graphs,
        checkpoint_seconds=job.checkpoint_seconds,
        claim_seconds=job.claim_seconds,
        log=log,
        stop=stop,
        worker=worker or Worker(),
    )


@contextlib.contextmanager
def record_failure(job: Job, family: Family) -> Iterator[None]:
    """Put an error that comes before the work itself, such as a missing plug-in, into the store too."""
    from bench.store.store import Store

    try:
        yield
    except (Exception, SystemExit) as error:
        store = Store(job.runs)
        done = store.complete(family.runs)
        for run in family.runs:
            if run not in done:
                store.fail(run, error, Worker().describe())
        raise


def work(runner: Runner, family: Family, sink: Callable[[float, str], None], wait: bool = True) -> tuple[str, str]:
    """Compute what is missing of a family: (how it ended, one sentence for the user)."""
    try:
        runner.run(family, FamilyProgress(family.label, len(family.runs), sink), wait)
    except (Held, Lost) as holder:
        return HELD, f"{family.label}: {holder}"
    except Stopped as reason:
        return STOPPED, f"{family.label}: {reason}"
    except (Exception, SystemExit) as error:  # its trace is in the store; the other families go on
        return FAILED, f"{family.label}: {type(error).__name__}: {error}"
    return DONE, family.label
