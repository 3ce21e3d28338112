"""Formats of a local base: a folder of safetensors, a GGUF file. A new one is an entry of FORMATS.

A local base is identified by the content of its files, so each format says which files define it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from bench.errors import ModelNotUsable

EMBEDDED = Path(__file__).parent / "embedded"


@dataclasses.dataclass(frozen=True)
class Source:
    """Arguments for transformers' ``from_pretrained``.

    Attributes:
        name: what messages call the base: its path, or its name on the hub.
        place: first argument of ``from_pretrained``.
        options: its keyword arguments that depend on the format.
        weights: further ones where weights are read.
        tensors: how many tensors its files hold; None where that is not known.
        quantizable: whether transformers can quantise the weights as it reads them.
        asks_bos: whether its files ask for a BOS before every prompt; None where they do not say.
        shapes: the shape of each tensor in its files; empty where that is not known.
    """

    name: str
    place: str | Path
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tensors: int | None = None
    quantizable: bool = True
    asks_bos: bool | None = None
    shapes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)


class Format(Protocol):
    """A local format."""

    def accepts(self, path: Path) -> bool:
        """Whether ``path`` is of this format."""

    def files(self, path: Path) -> dict[str, Path]:
        """The files that define the model, by the name that enters its identity.

        Raises:
            ModelNotUsable: files are missing, or of a kind that cannot be hashed.
        """

    def opened(self, path: Path) -> contextlib.AbstractContextManager[Source]:
        """The arguments for transformers, valid inside the context."""


class Folder:
    """A folder saved by transformers: config.json, tokenizer files and safetensors."""

    def accepts(self, path: Path) -> bool:
        return path.is_dir()

    def files(self, path: Path) -> dict[str, Path]:
        wanted = ("*.safetensors", "*.json", "*.model", "*.txt")
        files = sorted({file for pattern in wanted for file in path.glob(pattern)}, key=lambda file: file.name)
        if odd := [file for file in files if not file.is_file()]:
            raise ModelNotUsable(f"{odd[0]} is not a regular file: remove it from the model's folder, or replace it.")
        if not (path / "config.json").is_file():
            raise ModelNotUsable(f"{path} has no config.json: give the folder of a model saved by transformers.")
        weights = [file for file in files if file.suffix == ".safetensors"]
        if not weights:
            raise ModelNotUsable(
                f"{path} has no *.safetensors: save the model in that format (pickled weights are refused)."
            )
        for index in path.glob("*.safetensors.index.json"):
            shards = set((_json(index).get("weight_map") or {}).values())
            if outside := sorted(shards - {file.name for file in weights}):
                raise ModelNotUsable(f"{index} names {outside[0]}, which is not in {path}: complete the folder.")
        return {file.name: file for file in files}

    @contextlib.contextmanager
    def opened(self, path: Path) -> Iterator[Source]:
        settings = _json(path / "tokenizer_config.json")
        headers = [_header(file) for file in path.glob("*.safetensors") if file.is_file()]
        yield Source(
            str(path),
            path,
            tensors=sum(map(len, headers)),
            asks_bos=settings.get("add_bos_token"),
            shapes={name: shape for header in headers for name, shape in header.items()},
        )


class Gguf:
    """A GGUF file, dequantised by transformers. Its identity is its content alone."""

    def accepts(self, path: Path) -> bool:
        return path.is_file() and path.suffix == ".gguf"

    def files(self, path: Path) -> dict[str, Path]:
        return {"model.gguf": path}

    @contextlib.contextmanager
    def opened(self, path: Path) -> Iterator[Source]:
        try:
            from gguf import GGUFReader
        except ImportError as error:
            raise ModelNotUsable(f"{path} needs the package gguf: pip install 'bayes-lora-bench[gguf]'.") from error
        try:
            reader = GGUFReader(str(path))
            bos = reader.fields.get("tokenizer.ggml.add_bos_token")
            asks_bos, tensors = None if bos is None else bool(bos.contents()), len(reader.tensors)
        except Exception as error:  # the reader raises many kinds on a damaged file
            raise ModelNotUsable(f"{path} is not a readable GGUF file ({type(error).__name__}: {error}).") from error
        with tempfile.TemporaryDirectory() as alone:  # transformers would also read files that lie next to it
            (Path(alone) / "model.gguf").symlink_to(path.resolve())
            with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that transformers cannot switch off
                yield Source(
                    str(path), Path(alone), {"gguf_file": "model.gguf"}, _dequantised(), tensors, False, asks_bos
                )


def _dequantised() -> dict[str, Any]:
    """Newer versions of transformers would keep the weights packed, and compute with kernels from the hub."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


FORMATS: tuple[Format, ...] = (Folder(), Gguf())


def format_of(path: Path) -> Format:
    """The format of a local base.

    Raises:
        ModelNotUsable: the folder or file does not exist, or its format is unknown.
    """
    for known in FORMATS:
        if known.accepts(path):
            return known
    if not path.exists():
        raise ModelNotUsable(f"There is no model at {path}: give a folder saved by transformers, or a .gguf file.")
    raise ModelNotUsable(f"{path} is neither a folder saved by transformers nor a .gguf file.")


def _json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none, or none that can be read (loading says what is wrong)."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a safetensors file's tensors; empty for a damaged file (loading says so)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as stored:
            return {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118 (a file)
    except (SafetensorError, OSError):
        return {}
