"""The application object, and the decorator that makes a function a command of it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from bench.cli.paths import check_folder
from bench.errors import near_miss

RUN, FOLLOW, RESULTS, SETUP = "Compute", "Plan and follow", "Results", "Set-up"  # panels of the help
SCHEDULERS = "For schedulers"
_ORDER = (RUN, FOLLOW, RESULTS, SETUP, SCHEDULERS)

F = TypeVar("F", bound=Callable[..., int | None])


class Command(TyperCommand):
    """A command whose help lists its options by group. Plain text: importing rich would double the start-up time."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            panel = "Arguments" if parameter.param_type_name == "argument" else "Options"
            if record := parameter.get_help_record(ctx):
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or panel, []).append(record)
        for name, records in sorted(groups.items(), key=lambda group: group[0] == "Options"):  # the rest comes last
            with formatter.section(name):
                formatter.write_dl(records)


class Commands(TyperGroup):
    """The group of all commands: its help lists them by panel, and an unknown one is answered with near misses."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=lambda name: _ORDER.index(_panel(self.commands[name])))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = super().get_command(ctx, cmd_name)
        if found is None and not ctx.resilient_parsing:
            raise LookupError(f"There is no command '{cmd_name}'.{near_miss(cmd_name, self.commands)}")
        return found

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for panel in _ORDER:
            found = [(name, found.help or "") for name, found in self.commands.items() if _panel(found) == panel]
            if found:
                with formatter.section(panel):
                    formatter.write_dl(found)


def _panel(found: Any) -> Any:
    return getattr(found, "rich_help_panel", "")


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command(panel: str, name: str | None = None) -> Callable[[F], F]:
    """Register a function as a command, listed under ``panel`` in the help.

    A parameter whose type is a dataclass is unfolded: each field becomes an option, and the function is called with an
    instance. ``~`` is expanded in every path, and a store that is a file is refused. The function returns the exit
    status; None stands for 0.
    """

    def register(function: F) -> F:
        hints = get_type_hints(function, include_extras=True)
        groups: dict[str, Any] = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}
        parameters = [
            found
            for parameter in inspect.signature(function).parameters.values()
            for found in (
                _unfolded(groups[parameter.name])
                if parameter.name in groups
                else [parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)]
            )
        ]

        @functools.wraps(function)
        def call(**values: Any) -> int:
            values = {name: _expanded(value) for name, value in values.items()}
            if "runs" in values:
                check_folder(values["runs"], "--runs")
            for name, kind in groups.items():
                values[name] = kind(**{field.name: values.pop(field.name) for field in dataclasses.fields(kind)})
            return function(**values) or 0

        del call.__wrapped__  # or the signature would be read from the function
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, cls=Command, rich_help_panel=panel)(call)
        return function

    return register


def _unfolded(kind: Any) -> Iterator[inspect.Parameter]:
    """One keyword parameter for each field of a dataclass."""
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is dataclasses.MISSING:
            default = inspect.Parameter.empty
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name]
        )


def _expanded(value: Any) -> Any:
    if isinstance(value, Path):
        try:
            return value.expanduser()
        except RuntimeError:
            raise ValueError(f"{value}: there is no user of that name. Write the path in full.") from None
    return [_expanded(item) for item in value] if isinstance(value, list) else value
