"""The command ``bench``. Imports that take time stay inside the functions that need them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from bench.cli import demo, deploy, family, grid, listing, planning, results, run  # noqa: F401  (each registers its commands)
from bench.cli.app import app
from bench.cli.terminal import any_encoding, complain, discard, show
from bench.cli.usage import sentence
from bench.errors import BrokenPlugin, one_line
from bench.process.console import shown
from bench.process.stop import Stopped
from bench.store.files import no_room

USER_ERRORS = (LookupError, ValueError, OSError, ImportError, FloatingPointError, BrokenPlugin)
INTERRUPTED, SIGPIPE = 130, 141  # the statuses that a shell shows for programs ended by SIGINT and SIGPIPE
AGAIN = "The same command continues from here."


def _version(asked: bool) -> None:
    if asked:
        import importlib.metadata

        typer.echo(f"bench {importlib.metadata.version('bayes-lora-bench')}")
        raise typer.Exit


@app.callback()
def bench(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Bayesian LoRA finetuning, compared on one substrate: run methods on tasks, rank them."""
    context.obj["debug"] = debug


@functools.cache
def _entry() -> Any:
    """The commands as click has them: a process that runs many, such as one of tests, builds them once."""
    return typer.main.get_command(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0 done, 1 something failed, 2 the command could not be understood, 75 stopped by a signal, 130 by Ctrl-C, 141
    standard output was closed.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    out, err = sys.stdout, sys.stderr
    any_encoding(out, err)
    shared: dict[str, object] = {}
    try:
        with shown(show):
            status = _entry()(words or ["--help"], prog_name="bench", standalone_mode=False, obj=shared)
        if out is not None:
            out.flush()  # here, where a reader that has gone away, such as `| head`, can still be met
        if status == INTERRUPTED:  # typer turns Ctrl-C into this status
            complain(f"stopped. {AGAIN}")
        return int(status or 0) if words else 2
    except BrokenPipeError:
        discard(out)
        return SIGPIPE
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        sys.stdout, sys.stderr = out, err  # typer has wrapped them
        discard(out)
        return SIGPIPE
    except TyperException as error:
        complain(sentence(error))
        return 2
    except typer.Abort as error:  # typer's, for an EOFError
        if shared.get("debug"):
            raise
        complain(f"ended early ({one_line(error.__cause__ or error)}).")
        return 1
    except USER_ERRORS as error:
        if shared.get("debug"):
            raise
        complain(error.args[0] if isinstance(error, KeyError) and error.args else error)
        return 2
    except Stopped as reason:
        complain(f"{reason}. {AGAIN}")
        return reason.status
    except Exception as error:  # of a library that has its own for a full disk
        why = "" if shared.get("debug") else no_room(error)
        if not why:
            raise
        complain(why)
        return 2
