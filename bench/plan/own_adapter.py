"""The adapter of the user's that a grid or a run starts from, and the settings that it brings along."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from bench.errors import shown
from bench.method import get_method
from bench.model.own_adapter import OwnAdapter, find_adapter, named_base, read_adapter
from bench.plan.grid_file import read_model_table
from bench.plan.settings import Layer, Settings

FORM = ("r", "alpha", "targets", "variant")  # of LoRA: what an adapter's function depends on


def needs_adapter(method: str) -> bool:
    """Whether a method, or one that it starts from, reads an adapter of the user's."""
    cls = get_method(method)
    return cls.reads_adapter or (cls.base is not None and needs_adapter(cls.base))


def check_needed(adapter: OwnAdapter | str | None, *methods: str) -> None:
    """Refuse methods that need an adapter where none is named, and an adapter that no method starts from.

    Raises:
        ValueError: the message says what to name.
    """
    needing = [name for name in methods if needs_adapter(name)]
    if adapter is None and needing:
        raise ValueError(
            f"'{needing[0]}' starts from an adapter of yours: name its folder with --adapter, or as `adapter` in "
            "[model]."
        )
    if adapter is not None and not needing:
        raise ValueError(
            f"The adapter {getattr(adapter, 'path', adapter)} is named, and no method starts from it: ask for adapter, "
            "temperature_adapter, tfb_adapter, la_kfac_adapter or another NAME_adapter."
        )


def choose_adapter(table: Layer, methods: Sequence[str], folder: Path | None = None) -> tuple[OwnAdapter | None, Layer]:
    """(the adapter that a ``[model]`` table names, or None; the table, with that adapter's base where it names none).

    Args:
        methods: those that are planned.
        folder: the folder of the grid file.

    Raises:
        ModelNotUsable: the adapter cannot be used.
        ValueError: a method needs an adapter and none is named, or the reverse.
    """
    name = read_model_table(table).adapter
    check_needed(name, *methods)
    if name is None:
        return None, table
    adapter = read_adapter(find_adapter(name, folder))
    return adapter, table if "id" in table else {**table, **named_base(adapter)}


def settings_over(adapter: OwnAdapter | None, settings: Layer) -> Settings:
    """``settings`` over those that the adapter has: the form of LoRA, and its content.

    Raises:
        ValueError: they want another form.
    """
    if adapter is None:
        return Settings(settings)
    form = {field.name: getattr(adapter.lora, field.name) for field in dataclasses.fields(adapter.lora)}
    found = Settings({"lora": form, "adapter": {"content": adapter.content}}, settings)
    check_form(adapter, found)
    return found


def check_form(adapter: OwnAdapter | None, settings: Settings) -> None:
    """Refuse settings of LoRA other than the adapter's, but for the dropout, which its function does not depend on."""
    if adapter is None:
        return
    for name in FORM:
        wanted, has = getattr(settings.lora, name), getattr(adapter.lora, name)
        if wanted != has:
            raise ValueError(
                f"lora.{name} is {shown(wanted)}, and the adapter has {shown(has)}: leave lora.{name} out, as it is "
                "read from the adapter."
            )
