"""Imports that loading a base takes, done once: workers on a CPU are forked from a server that has imported this."""

import importlib

from bench.model.quantization import quiet_bitsandbytes

quiet_bitsandbytes()  # peft imports it
for _library in (
    "peft",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.tokenization_utils_base",
):
    importlib.import_module(_library)
