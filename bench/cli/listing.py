"""``bench list``: the registered methods and tasks."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer

from bench.cli.app import SETUP, command
from bench.cli.options import Json, Plugins
from bench.cli.terminal import say


def list_methods() -> list[dict[str, Any]]:
    """Name, title, base, version, first line of the docstring and hyperparameters of each method."""
    from bench.method import get_method, method_names
    from bench.plan.settings import describe

    found = []
    for name in method_names():
        cls = get_method(name)
        doc = (cls.__doc__ or "").strip().partition("\n")[0]
        found.append(
            {"name": name, "title": cls.title, "base": cls.base, "version": cls.version, "what": doc,
             "parameters": describe(cls)}
        )  # fmt: skip
    return found


def list_tasks() -> list[dict[str, Any]]:
    """Name, title, source, revision, answers, rows by split, licence and citation of each task."""
    from bench.task import get_task, task_names

    found = []
    for name in task_names():
        task = get_task(name)
        found.append(
            {"name": name, "title": task.title, "source": task.source, "config": task.config,
             "revision": task.revision, "answers": list(task.answers), "rows": dict(task.rows),
             "licence": task.licence, "citation": task.citation}
        )  # fmt: skip
    return found


def render(rows: list[dict[str, Any]]) -> str:
    """The rows as text: a heading line each, then indented details."""
    lines = []
    for row in rows:
        lines.append(f"{row['name']}  -  {row['title']}" + (f", from {row['base']}" if row.get("base") else ""))
        if "what" in row:
            lines.append(f"    {row['what']}")
            for p in row["parameters"]:
                when = "" if p["reader"] == "fit" else " [prediction only]"
                lines.append(f"    {p['name']} = {p['default']}{when}: {p['doc']}")
        else:
            where = row["source"] + (f"/{row['config']}" if row["config"] else "")
            splits = ", ".join(f"{split} {count}" for split, count in row["rows"].items())
            lines.append(f"    {where} @ {row['revision'][:12]}; licence: {row['licence']}")
            lines.append(f"    {len(row['answers'])} answers ({', '.join(row['answers'])}); rows: {splits}")
    return "\n".join(lines)


@command(SETUP, "list")
def listing(
    what: Annotated[
        Literal["methods", "tasks"], typer.Argument(metavar="methods|tasks", help="The registry.", show_default=False)
    ],
    as_json: Json = False,
    plugins: Plugins = [],  # noqa: B006  (typer reads it, and makes a new list for each call)
) -> None:
    """List the methods or the tasks."""
    from bench.data.file_task import load_extension

    for plugin in plugins:
        load_extension(plugin)
    rows = list_methods() if what == "methods" else list_tasks()
    say(json.dumps(rows, indent=2) if as_json else render(rows))
    if what == "methods" and not as_json:
        from bench.method import METHODS

        say("\n".join(["", "By name, too:", *(f"{name}  -  {means}" for name, means in METHODS.unlisted().items())]))
