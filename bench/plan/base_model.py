"""The base model that a ``[model]`` table, or the command line, asks for."""

from __future__ import annotations

from pathlib import Path

from bench.errors import ModelNotUsable
from bench.model.identity import is_local, resolve_model
from bench.plan.grid_file import read_model_table
from bench.plan.settings import Layer
from bench.specs import ModelSpec
from bench.specs.toml import expanded


def choose_model(table: Layer, folder: Path | None = None) -> tuple[ModelSpec, Path | None]:
    """(resolved spec, path of a local model or None) of a ``[model]`` table.

    Args:
        table: ``id`` is ``embedded``, a folder or .gguf file (of the working directory, or else of ``folder``), or a
            name on the hub. :func:`bench.plan.grid.read_grid` has replaced that of a grid file by its place.
        folder: the folder of the grid file.

    Raises:
        LookupError, ValueError: a key is misspelt, a value does not fit, or the model cannot be found.
    """
    asked = read_model_table(table)
    if not asked.id:
        raise ValueError("The model is '': use embedded, a name on the hub, or a folder (--model, or id in [model]).")
    path = None if asked.id == "embedded" else _local(asked.id, folder)
    if asked.revision is not None and (asked.id == "embedded" or path is not None):
        raise ModelNotUsable(
            f"The model {path or asked.id} has no revisions, so '{asked.revision}' (--revision, or revision in "
            "[model]) pins nothing: remove it, or name a model on the hub."
        )
    chosen = asked.model_dump(exclude={"revision", "adapter"})
    spec = ModelSpec(**chosen, revision=asked.revision or "")
    return resolve_model(spec, path), path


def overridden(table: Layer, overrides: Layer) -> Layer:
    """A ``[model]`` table with what the command line says laid over it; another model has no use for its revision."""
    dropped = ("revision",) if "id" in overrides else ()
    return {**{name: value for name, value in table.items() if name not in dropped}, **overrides}


def _local(name: str, folder: Path | None) -> Path | None:
    """The folder or file that ``name`` names, or None for a name on the hub."""
    places = [expanded(name), *([folder / expanded(name)] if folder else [])]
    for place in places:
        if is_local(place):
            return place
    for place in places:
        if place.exists():
            raise ModelNotUsable(f"{place} is neither a folder nor a .gguf file: give --model one of them.")
    if name.startswith((".", "~", "/")) or name.endswith("/") or name.count("/") > 1:
        raise ModelNotUsable(f"There is no folder {places[0]}.")
    return None
