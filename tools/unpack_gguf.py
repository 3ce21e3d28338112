"""Turn a GGUF file of a Qwen2 or Llama model into a folder that the suite loads: bfloat16 safetensors, tokenizer.

    python tools/unpack_gguf.py MODEL.gguf FOLDER
    python tools/unpack_gguf.py MODEL.gguf FOLDER --like OTHER     # configuration and tokenizer copied from OTHER

Embedding and output layer are tied where the architecture ties them (Qwen2.5-0.5B, SmolLM2): a file that holds both
matrices stores the output layer at the higher precision, and that one is used for both. A file whose two matrices
differ is refused. The folder's identity
(``bench`` hashes its files) depends on the configuration and tokenizer files, which vary with the version of
transformers: ``--like`` keeps it the same between machines. Needs ``gguf``.
"""

from __future__ import annotations

import argparse
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
ALIKE = 0.9  # cosine similarity of an embedding and an output layer that are one matrix in two precisions
DESCRIPTION = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--like", type=Path, help="folder to copy configuration and tokenizer from")
    args = parser.parse_args()
    unpack(args.file, args.folder, args.like)
    print(f"{args.folder}: {sum(file.stat().st_size for file in args.folder.iterdir()) / 1e6:.0f} MB")


def unpack(file: Path, folder: Path, like: Path | None = None) -> None:
    """Write ``folder`` from a GGUF file.

    Raises:
        ValueError: the architecture is neither qwen2 nor llama, or a tensor has no counterpart there.
    """
    from gguf import GGUFReader

    reader = GGUFReader(str(file))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights(reader), folder / "model.safetensors", metadata={"format": "pt"})
    if like is not None:
        for name in DESCRIPTION:
            if (like / name).is_file():
                shutil.copy(like / name, folder / name)
        return
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    config.tie_word_embeddings = True
    config.architectures = [{"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}[_value(reader, "architecture")]]
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


def weights(reader: Any) -> dict[str, Tensor]:
    """The tensors under the names of transformers, in bfloat16, without an output layer (it is tied)."""
    architecture = _value(reader, "architecture")
    if architecture not in ("qwen2", "llama"):
        raise ValueError(f"The architecture is {architecture}: only qwen2 and llama are known here.")
    _check_tied(reader)
    names = {tensor.name for tensor in reader.tensors}
    embedding = "output.weight" if "output.weight" in names else "token_embd.weight"
    heads = {"q": _value(reader, "attention.head_count", architecture)}
    heads["k"] = _value(reader, "attention.head_count_kv", architecture)
    unread = {"token_embd.weight", "output.weight", "rope_freqs.weight"} - {embedding}
    wanted = [tensor for tensor in reader.tensors if tensor.name not in unread]
    with ThreadPoolExecutor() as pool:  # numpy does most of the work outside Python's lock
        values = dict(zip([tensor.name for tensor in wanted], pool.map(_dense, wanted), strict=True))
    found: dict[str, Tensor] = {}
    for name, value in values.items():
        if name == embedding:
            found["model.embed_tokens.weight"] = value
        elif name == "output_norm.weight":
            found["model.norm.weight"] = value
        elif name.startswith("blk."):
            _, number, part, kind = name.split(".")
            if architecture == "llama" and part in ("attn_q", "attn_k"):
                value = _unpermuted(value, heads[part[-1]]).contiguous()
            found[f"model.layers.{number}.{LAYER[part]}.{kind}"] = value
        else:
            raise ValueError(f"The tensor {name} has no place in a {architecture} model.")
    return found


def _check_tied(reader: Any) -> None:
    """Refuse a file whose embedding is not its output layer in another precision, or blank, left out for room."""
    both = {tensor.name: tensor for tensor in reader.tensors if tensor.name in ("token_embd.weight", "output.weight")}
    if len(both) < 2:
        return
    first, second = (_dense(both[name])[:1024].float().flatten() for name in ("token_embd.weight", "output.weight"))
    alike = float(torch.nn.functional.cosine_similarity(first, second, dim=0)) >= ALIKE
    if not second.any() or (first.any() and not alike):
        raise ValueError(
            "Its embedding is not its output layer, and the folder would tie them: give the .gguf file itself."
        )


def _unpermuted(value: Tensor, heads: int) -> Tensor:
    """Rows of a query or key matrix in the order of transformers: llama.cpp interleaves the halves of each head."""
    return value.reshape(heads, value.shape[0] // heads // 2, 2, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)


def _dense(tensor: Any) -> Tensor:
    from gguf import dequantize

    values = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    return torch.from_numpy(values).to(torch.bfloat16).contiguous()


def _value(reader: Any, name: str, under: str = "general") -> Any:
    return reader.fields[f"{under}.{name}"].contents()


if __name__ == "__main__":
    main()
