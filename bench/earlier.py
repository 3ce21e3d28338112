"""Names that plug-ins for version 0.1 import from where they were then. They work, with a DeprecationWarning.

The docstring of :func:`bench.options.fit_option` shows today's form of a hyperparameter.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def moved(module: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module that names have left: ``places`` maps each to where it is, ``module.name``.

    The new place is imported at the first use only, so a lower layer may point to a higher one.
    """

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        home, _, attribute = places[name].rpartition(".")
        advice = f"import {name} from {home}" if name == attribute else f"use {name} of {home}"
        warnings.warn(f"{module}.{name} has moved: {advice}.", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(home), attribute)

    return find
