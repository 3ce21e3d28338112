"""``bench family``: one family of a submission, the command that schedulers run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.app import SCHEDULERS, command
from bench.cli.terminal import complain
from bench.process.stop import StopRequest, start_again

DONE = "this family is done"


@command(SCHEDULERS)
def family(
    file: Annotated[
        Path, typer.Argument(metavar="FAMILIES", help="The families.jsonl of a submission.", show_default=False)
    ],
    item: Annotated[int, typer.Option(metavar="N", help="Number of the family in the file, from 0.")],
    job: Annotated[str, typer.Option(metavar="NAME", help="The scheduler's job, by a name that is never reused.")] = "",
    restart: Annotated[int, typer.Option(metavar="N", help="How often the scheduler has restarted that job.")] = 0,
    node: Annotated[str, typer.Option(metavar="NAME", help="Name of this machine.", show_default="its host name")] = "",
    on_warning: Annotated[
        str, typer.Option(metavar="COMMAND", help="Run this after SIGUSR2, once a checkpoint is written.")
    ] = "",
) -> int:
    """Compute one family of a submission."""
    if item < 0:
        raise ValueError(f"--item {item}: families are numbered from 0.")
    from bench.launch.submission import peek, read_item
    from bench.process.claim import Held, claim
    from bench.process.holder import Worker, covers
    from bench.store.store import Store

    worker = Worker(job, restart, **({"node": node} if node else {}))
    with StopRequest().installed() as stop:  # before the imports, which take seconds
        runs, key, undone = peek(file, item)
        if not undone:
            complain(DONE)
            return 0
        wait = False
        try:
            with claim(Store(runs).claim_file(key), worker, wait=False, stop=stop):
                pass  # only to see whether another process is at work, before the imports
        except Held as held:
            if covers(held.holder, undone):
                complain(held)
                return 0
            wait = True  # it computes less than this submission asks for

        from bench.process.console import shown
        from bench.process.progress import Bar
        from bench.run.worker import Outcome, make_runner, record_failure, work

        store, execution, planned = read_item(file, item)
        store.tidy(execution.claim_seconds)
        bar = Bar(planned.label, 1)
        with shown(bar.log):
            with record_failure(store, planned):
                runner = make_runner(store, execution, stop, worker)
            if not peek(file, item)[2]:  # another process has computed it during the imports
                complain(DONE)
                return 0
            outcome, text = work(runner, planned, lambda fraction, text: bar.update(key, fraction, text), wait)
            bar.log(f"{outcome}: {text}")
        if outcome == Outcome.STOPPED and stop.warned and on_warning:
            start_again(on_warning)
        return {Outcome.STOPPED: stop.status, Outcome.FAILED: 1, Outcome.BLOCKED: 1}.get(outcome, 0)
