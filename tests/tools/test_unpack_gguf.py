"""The folder that a GGUF file is turned into, and a file that has no such folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tools.unpack_gguf import weights

gguf = pytest.importorskip("gguf", reason="needs gguf")
ROWS, WIDTH = 32, 64


def written(file: Path, head: NDArray[Any] | None, blank: bool = False) -> NDArray[Any]:
    """A GGUF file of a Llama without layers, its embedding left ``blank`` or not; returns the embedding."""
    embedding = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_tensor("token_embd.weight", 0 * embedding if blank else embedding)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    if head is not None:
        writer.add_tensor("output.weight", head)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return embedding


@pytest.mark.parametrize("kind", ["alone", "in two precisions", "left out"])
def test_one_matrix_is_embedding_and_output_layer(kind: str, tmp_path: Path) -> None:
    embedding = written(tmp_path / "a.gguf", None)
    noise = 1e-2 * np.random.default_rng(1).normal(size=embedding.shape).astype(np.float32)
    head = {"alone": None, "in two precisions": embedding + noise, "left out": embedding}[kind]
    written(tmp_path / "b.gguf", head, blank=kind == "left out")
    found = weights(gguf.GGUFReader(str(tmp_path / "b.gguf")))
    wanted = torch.from_numpy(embedding + noise if kind == "in two precisions" else embedding).bfloat16()
    assert found.keys() == {"model.embed_tokens.weight", "model.norm.weight"}
    assert torch.equal(found["model.embed_tokens.weight"], wanted)


@pytest.mark.parametrize("scale", [1, 0])
def test_a_model_with_two_matrices_is_refused(scale: int, tmp_path: Path) -> None:
    head = scale * np.random.default_rng(2).normal(size=(ROWS, WIDTH)).astype(np.float32)
    written(tmp_path / "b.gguf", head)
    with pytest.raises(ValueError, match="Its embedding is not its output layer, and the folder would tie them"):
        weights(gguf.GGUFReader(str(tmp_path / "b.gguf")))
