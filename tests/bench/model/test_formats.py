"""Formats of a base: a GGUF file answers as the folder that it was made from."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CPU, LETTERS, LLAMA, build, byte_level, examples, lora, one_batch, save

from bench.errors import ModelNotUsable
from bench.model.choice_model import load_model
from bench.model.identity import resolve_model

PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(base: Any, tokenizer: Any, file: Path, packed: bool = False) -> Path:
    """A Llama model as a GGUF file, in float32, or with its matrices in blocks of eight bits (Q8_0)."""
    gguf = pytest.importorskip("gguf")
    config, writer = base.config, gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    tokens += [f"<unused{number}>" for number in range(len(tokens), config.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == tokenizer.bos_token else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_add_bos_token(True)
    for name, value in base.state_dict().items():
        layer = name.removesuffix(".weight")
        if layer not in WHOLE:
            _, _, number, part = layer.split(".", 3)
            if part in ("self_attn.q_proj", "self_attn.k_proj"):  # llama.cpp interleaves the halves of each head
                value = value.view(-1, 2, config.head_dim // 2, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        to = WHOLE.get(layer) or f"blk.{number}.{PARTS[part]}"
        plain = value.float().contiguous().numpy()
        if packed and plain.ndim > 1 and layer not in WHOLE and plain.shape[1] % 32 == 0:
            q8 = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{to}.weight", gguf.quantize(plain, q8), raw_dtype=q8)
        else:
            writer.add_tensor(f"{to}.weight", plain)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(folder, GGUF file) of one base."""
    place, base, tokenizer = tmp_path_factory.mktemp("gguf"), build("llama", LLAMA), byte_level("<s>")
    return save(place / "folder", base, tokenizer), write_gguf(base, tokenizer, place / "model of mine.gguf")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gguf_file_answers_as_the_folder_it_came_from(
    pair: tuple[Path, Path], dtype: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, file = pair
    spec = dataclasses.replace(lora(), dtype=dtype)
    models = [load_model(resolve_model(spec, path), path, CPU) for path in (folder, file)]
    for model in models:
        model.prepare(LETTERS[:4], seed=1)
    assert models[0].encode(examples(), 320).tokens == models[1].encode(examples(), 320).tokens
    assert torch.equal(models[0].logits(one_batch(models[0])), models[1].logits(one_batch(models[1])))
    assert not models[1].warnings and capfd.readouterr().err == ""


def test_a_packed_gguf_file_is_dequantised_and_takes_adapters(tmp_path: Path) -> None:
    base, tokenizer = build("llama", LLAMA), byte_level("<s>")
    file = write_gguf(base, tokenizer, tmp_path / "q8.gguf", packed=True)
    model = load_model(resolve_model(lora(), file), file, CPU)
    model.prepare(LETTERS[:4], seed=1)
    close = 0
    for name, value in base.state_dict().items():
        if name.endswith("proj.weight") and value.shape[1] % 32 == 0:
            found = dict(model._base.named_parameters())
            read = found.get(name, found.get(name.replace(".weight", ".base_layer.weight")))
            assert read is not None and read.dtype == torch.float32
            close += torch.allclose(read, value, atol=float(value.abs().max()) / 250) and not torch.equal(read, value)
    assert close == 12, "rounded, in their places"
    with model.assign({name: torch.ones_like(value) for name, value in model.params.items()}):
        model.logits(one_batch(model)).sum().backward()
    assert all(value.grad is not None and value.grad.any() for value in model.params.values())


def test_a_gguf_file_is_its_content_and_reads_nothing_beside_it(pair: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "b.gguf"
    shutil.copy(pair[1], file)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text("damaged")
    spec = resolve_model(lora(), pair[1])
    assert resolve_model(lora(), file) == spec and spec.id.startswith("local:")
    load_model(spec, file, CPU)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ModelNotUsable, match=f"{file} no longer holds {spec.id}"):
        load_model(spec, file, CPU)


def test_a_gguf_file_that_cannot_be_used_gets_a_sentence(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelNotUsable, match=r"There is no model at .*none\.gguf"):
        resolve_model(lora(), tmp_path / "none.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(pair[1].read_bytes()[:200])
    with pytest.raises(ModelNotUsable, match=r"cut\.gguf is not a readable GGUF file"):
        load_model(resolve_model(lora(), cut), cut, CPU)
    with pytest.raises(ModelNotUsable, match="cannot be read and quantised at once: use --quantization none"):
        load_model(resolve_model(dataclasses.replace(lora(), quantization="int8"), pair[1]), pair[1], CPU)
    other = tmp_path / "model.bin"
    other.write_bytes(b"x")
    with pytest.raises(ModelNotUsable, match=r"model\.bin is neither a folder saved by transformers nor a \.gguf file"):
        resolve_model(lora(), other)
