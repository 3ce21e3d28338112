"""The libraries that loading a base takes, imported once."""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Iterator

from bench.model.quantization import import_bitsandbytes

LIBRARIES = (
    "peft",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.tokenization_utils_base",
)


def load_libraries() -> None:
    """Import transformers and PEFT, and bitsandbytes where it is installed: PEFT imports it in any case."""
    with _no_garbage():
        with contextlib.suppress(Exception):  # PEFT says what is wrong with it, if anything is
            import_bitsandbytes()
        for library in LIBRARIES:
            importlib.import_module(library)


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """No search for garbage: modules are none, and in thousands of them it takes a sixth of the time of an import."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
