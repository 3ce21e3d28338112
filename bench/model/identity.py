"""What a model spec names: a hub commit, or the hash of a local folder's files."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path

from bench.errors import ModelNotUsable, near_miss
from bench.model.adapters import VARIANTS
from bench.model.base import DTYPES, EMBEDDED
from bench.model.quantization import QUANTIZATIONS
from bench.specs import ModelSpec


def resolve_model(spec: ModelSpec, path: Path | None) -> ModelSpec:
    """The spec with its identity filled in: the hub commit, or the hash of a local folder's files.

    ``path`` is the folder of a local model (``spec.id`` is then replaced by ``local:<hash>``).

    Raises:
        ModelNotUsable: an unknown quantisation or dtype, or a model that cannot be found; the message names the fix.
    """
    if spec.quantization not in QUANTIZATIONS:
        raise ModelNotUsable(f"quantization '{spec.quantization}'.{near_miss(spec.quantization, QUANTIZATIONS)}")
    if spec.dtype not in DTYPES:
        raise ModelNotUsable(f"dtype '{spec.dtype}'.{near_miss(spec.dtype, DTYPES)}")
    if spec.lora.variant not in VARIANTS:
        raise ModelNotUsable(f"lora.variant '{spec.lora.variant}'.{near_miss(spec.lora.variant, VARIANTS)}")
    if spec.id == "embedded":
        return dataclasses.replace(spec, revision=fingerprint(EMBEDDED))
    if path is not None:
        return dataclasses.replace(spec, id=f"local:{fingerprint(path)}", revision="")
    return dataclasses.replace(spec, revision=_hub_commit(spec.id, spec.revision or "main"))


def fingerprint(folder: Path) -> str:
    """A hash over the files that define a model (weights, configuration, tokenizer), whatever the folder is called."""
    wanted = ("*.safetensors", "*.json", "*.model", "*.txt")
    files = sorted({file for pattern in wanted for file in folder.glob(pattern)}, key=lambda file: file.name)
    if not (folder / "config.json").is_file():
        raise ModelNotUsable(f"{folder} has no config.json: give the folder of a model saved by transformers.")
    if not any(file.suffix == ".safetensors" for file in files):
        raise ModelNotUsable(
            f"{folder} has no *.safetensors: save the model in that format (pickled weights are refused)."
        )
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            whole.update(f"{file.name}:{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()[:16]


def _hub_commit(name: str, revision: str) -> str:
    """The commit a hub revision points to, according to the hub, or to the local cache when offline."""
    from huggingface_hub import hf_hub_download

    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    try:
        return Path(hf_hub_download(name, "config.json", revision=revision)).parent.name
    except Exception as error:  # the hub client raises many kinds; all of them mean the same to the user
        raise ModelNotUsable(
            f"Model '{name}' at revision '{revision}' was not found on the hub or in the local cache "
            f"({type(error).__name__}). Check the name, log in if the model is gated, fetch it first with "
            f"`hf download {name}`, or give the path of a local folder."
        ) from error
