"""Commands only, one line per family, for other schedulers: `bench grid my.toml --launcher print | parallel -j 4`.

Nothing but commands goes to standard output. Each may run on any machine that sees the store, any number of times.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from bench.launch.launcher import Order
from bench.launch.submission import new_submission, write_submission

READS = ()


def launch(order: Order) -> list[str]:
    """Write the families to a file and print the command for each."""
    submission = new_submission(order.store, "print", order.title, order.families)
    if not order.dry_run:
        write_submission(submission, order.execution, order.families)
    here = shlex.quote(str(Path.cwd()))
    lines = (f"cd {here} && {submission.command(str(item))}\n" for item in range(len(order.families)))
    sys.stdout.write("".join(lines))
    return []
