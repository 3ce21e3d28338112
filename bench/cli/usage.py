"""A command line that cannot be understood, in one sentence: culprit, then fix."""

from __future__ import annotations

from typing import Any

from bench.errors import near_miss


def sentence(error: Any) -> str:
    """The fault in a command line, in one sentence: culprit, then fix."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    if context is None:
        return " ".join(str(error.format_message()).split())
    asked = context.command_path
    if hasattr(error, "possibilities"):
        return _unknown_option(error.option_name, context)
    if parameter is None:
        return f"{' '.join(error.format_message().split()).rstrip('.')}. See `{asked} --help`."
    name = next((text for text in parameter.opts if text.startswith("--")), parameter.metavar or parameter.name)
    if not error.message:
        return f"`{asked}` needs {name.removesuffix('...')}: see `{asked} --help`."
    return f"{name} {_wrong_value(error, parameter)}"


_TYPES = {"int_parsing": "whole number", "int_from_float": "whole number", "float_parsing": "number"}


def _wrong_value(error: Any, parameter: Any) -> str:
    cause = error.__cause__
    found = cause.errors()[0] if hasattr(cause, "errors") else {}
    if "input" not in found:
        return f"is refused: {' '.join(error.message.split())}"
    value = found["input"]
    if found.get("type") in _TYPES:
        return f"'{value}' is not a {_TYPES[found['type']]}."
    if choices := getattr(parameter.type_descriptor, "choices", None):
        return f"'{value}' is unknown.{near_miss(value, choices)}"
    return f"'{value}' is refused: {found.get('msg', error.message)}."


def _unknown_option(name: str, context: Any) -> str:
    if context.parent and any(name in parameter.opts for parameter in context.parent.command.params):
        return f"{name} goes before the command: `{context.parent.command_path} {name} {context.info_name} ...`."
    known = [text for parameter in context.command.params for text in parameter.opts if text.startswith("--")]
    return f"`{context.command_path}` has no option {name}.{near_miss(name, known)}"
