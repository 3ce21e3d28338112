"""Commands in processes of their own, forked from a server that has imported torch and transformers already.

They have what the tests of signals, kills and claims need: a process id, a main thread, an exit status. Only the
seconds that every new interpreter takes for its imports are saved.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path


class Forked:
    """``bench ARGUMENTS`` at work in a folder: the part of subprocess.Popen that the tests use."""

    def __init__(self, folder: Path, arguments: tuple[str, ...], environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["bench.launch.imports"])  # that of bench.launch.pool
        with tempfile.NamedTemporaryFile(prefix="bench-said-", delete=False) as said:
            self._said = Path(said.name)
        ready, ours = context.Pipe(duplex=False)
        given = (str(self._said), str(folder), arguments, dict(environment), ours)
        self._process = context.Process(target=_run, args=given)
        self._process.start()
        ours.close()
        self.pid: int = ready.recv()

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, number)

    def communicate(self, timeout: float) -> tuple[str]:
        """What the process has said on both streams by its end, which comes within ``timeout`` seconds."""
        self._process.join(timeout)
        assert self.returncode is not None, f"still at work after {timeout} s: {self._said.read_text()}"
        text = self._said.read_text()
        self._said.unlink()
        return (text,)

    @property
    def returncode(self) -> int | None:
        """The exit status; None while it works."""
        return self._process.exitcode


def _run(said: str, folder: str, arguments: tuple[str, ...], environment: dict[str, str], ready: Connection) -> None:
    """The process: as a shell starts it, but for the imports."""
    with Path(said).open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the server may have been started deaf to it
    ready.send(os.getpid())
    from bench.cli.main import main

    sys.exit(main(arguments))
