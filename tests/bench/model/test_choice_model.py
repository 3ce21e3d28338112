"""ChoiceModel on many architectures, tokenizers and quantisations: it answers as the model itself would."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from bench.data.batches import Batch
from bench.model.choice_model import EMBEDDED, ChoiceModel, _steady_length, answer_tokens, load_model, resolve_model
from bench.specs import LoraSpec, ModelSpec
from bench.task import Example

CPU = torch.device("cpu")
LETTERS = ("A", "B", "C", "D", "E")
TRUTHS = ("False", "True")
PROMPTS = (
    "Name one. Answer:",
    "Which is it? Choices: A. green B. red Answer:",
    "Answer:",
    "Select one of the choices that answers the following question: what is warm? Choices: A. sun B. ice Answer:",
)


def examples(prompts: Sequence[str] = PROMPTS) -> list[Example]:
    return [Example(prompt, 0, str(number)) for number, prompt in enumerate(prompts)]


def one_batch(model: ChoiceModel, prompts: Sequence[str] = PROMPTS) -> Batch:
    encoded = model.encode(examples(prompts), 320)
    return encoded.batch(range(len(encoded)))


def one_by_one(model: ChoiceModel, prompts: Sequence[str] = PROMPTS) -> Tensor:
    return torch.cat([model.logits(one_batch(model, [prompt])) for prompt in prompts]).detach()


def drawn(model: ChoiceModel, seed: int = 5, scale: float = 0.3) -> dict[str, Tensor]:
    """Adapters with no zero in them."""
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(p.shape, generator=generator) for name, p in model.params.items()}


# Tokenizers


def wrapped(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def byte_level(start: str = "", end: str = "", trained: bool = True) -> PreTrainedTokenizerFast:
    """Like GPT-2's and Llama 3's: bytes, blanks inside the tokens; ``start`` and ``end`` are put around a text."""
    special = sorted({token for token in (start, end) if token}) or ["<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    size = 300 if trained else len(alphabet) + len(special)
    trainer = trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(["Answer: A B C D E False True"] * 9, trainer)
    if start or end:
        template = " ".join(part for part in (start, "$A", end) if part)
        ids = [(token, tokenizer.token_to_id(token)) for token in special]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    names = {"bos_token": start, "eos_token": end or ("" if start else "<|endoftext|>")}
    return wrapped(tokenizer, **{name: token for name, token in names.items() if token})


def metaspace(scheme: str) -> PreTrainedTokenizerFast:
    """Like SentencePiece's: a blank is the mark of a word's start, put before the text too if ``scheme`` says so."""
    pieces = [*"▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:.?"]
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {piece: 3 + i for i, piece in enumerate(pieces)}
    merges = []
    for word in ("Answer", *TRUTHS, *LETTERS):
        for end in range(1, len(word)):
            merges.append((word[:end], word[end]))
            vocabulary.setdefault(word[: end + 1], len(vocabulary))
        merges.append(("▁", word))
        vocabulary.setdefault("▁" + word, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return wrapped(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def words(pattern: pre_tokenizers.PreTokenizer, known: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token per word, the others unknown."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", *known])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pattern
    return wrapped(tokenizer, unk_token="<unk>")


BLANK_APART = words(pre_tokenizers.Split(" ", "isolated"), [" ", "Answer:", "Answer:A", "Answer:B"])
BLANK_ALONE = words(
    pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "isolated"), pre_tokenizers.Punctuation()]),
    [" ", ":", "Answer", *LETTERS, *TRUTHS],
)


@pytest.mark.parametrize(
    ("tokenizer", "mark"),
    [
        (byte_level(), "Ġ"),
        (byte_level("<s>"), "Ġ"),
        (byte_level("<s>", "</s>"), "Ġ"),
        (metaspace("always"), "▁"),
        (metaspace("first"), "▁"),
        (metaspace("never"), "▁"),
        (BLANK_ALONE, ""),
    ],
    ids=["bytes", "bytes-bos", "bytes-bos-eos", "prepend", "prepend-first", "no-prepend", "blank-alone"],
)
@pytest.mark.parametrize("answers", [LETTERS[:2], LETTERS[:4], LETTERS, TRUTHS], ids="".join)
def test_answers_are_the_tokens_that_follow_the_cue(
    tokenizer: PreTrainedTokenizerFast, mark: str, answers: tuple[str, ...]
) -> None:
    ids = answer_tokens(tokenizer, answers, "m")
    assert tokenizer.convert_ids_to_tokens(list(ids)) == [mark + answer for answer in answers]
    separator = " " if mark else ""
    for token, answer in zip(ids, answers, strict=True):
        text = f"Answer:{separator}{answer}"
        assert tokenizer(text, add_special_tokens=False)["input_ids"][-1] == token


def lower_case() -> PreTrainedTokenizerFast:
    tokenizer = words(pre_tokenizers.BertPreTokenizer(), ["answer", ":", "a", "b"])
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "answers", "shown"),
    [
        (byte_level(trained=False), TRUTHS, "'ĠTrue'|'T', 'r', 'u', 'e'"),
        (words(pre_tokenizers.BertPreTokenizer(), ["Answer", ":", "A", "B"]), LETTERS[:3], "<unk>"),
        (words(pre_tokenizers.BertPreTokenizer(), ["Answer", ":", "A", "B"]), ("C", "D"), "<unk>"),
        (lower_case(), ("A", "a"), "'A': .'a'., 'a': .'a'."),
        (BLANK_APART, LETTERS[:2], "without: .'A': .."),
    ],
    ids=["pieces", "one-unknown", "all-unknown", "duplicates", "melts-into-the-cue"],
)
def test_answers_without_a_token_of_their_own_are_refused(
    tokenizer: PreTrainedTokenizerFast, answers: tuple[str, ...], shown: str
) -> None:
    with pytest.raises(ValueError, match=r"tokenizer of m does not give each answer a single token") as caught:
        answer_tokens(tokenizer, answers, "m")
    caught.match(shown)
    caught.match("Use another model or a task with other answers")


# Models


def spread(module: nn.Module, seed: int = 0) -> None:
    """Weights large enough that masks, positions, biases and caps all show in the logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.2 * noise if parameter.ndim > 1 else parameter + 0.2 * noise)


def save(folder: Path, module: Any, tokenizer: PreTrainedTokenizerFast) -> Path:
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


LLAMA = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
GPT2 = {
    "vocab_size": 300,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
NEOX = {k: v for k, v in LLAMA.items() if k not in ("num_key_value_heads", "head_dim")}
QV = ("q_proj", "v_proj")
# architecture: (configuration beyond the common one, LoRA targets)
FAMILIES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "llama": (LLAMA, QV),
    "mistral": (LLAMA | {"sliding_window": 8}, QV),
    "mixtral": (LLAMA | {"num_local_experts": 4}, QV),
    "qwen2": (LLAMA | {"tie_word_embeddings": True}, QV),
    "qwen3": (LLAMA, QV),
    "gemma": (LLAMA, QV),
    "gemma2": (LLAMA | {"final_logit_softcapping": 0.5, "attn_logit_softcapping": 2.0, "sliding_window": 8}, QV),
    "gemma3_text": (LLAMA | {"final_logit_softcapping": 0.5, "sliding_window": 8}, QV),
    "cohere": (LLAMA | {"logit_scale": 3.0}, QV),
    "cohere2": (LLAMA | {"logit_scale": 3.0, "sliding_window": 8}, QV),
    "granite": (LLAMA | {"logits_scaling": 4.0, "embedding_multiplier": 3.0}, QV),
    "stablelm": (LLAMA, QV),
    "olmo": (LLAMA, QV),
    "olmo2": (LLAMA, QV),
    "starcoder2": (LLAMA, QV),
    "nemotron": (LLAMA, QV),
    "falcon_h1": (LLAMA | {"lm_head_multiplier": 0.3, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8,
                           "mamba_d_state": 8, "mamba_chunk_size": 8}, QV),
    "phi": (LLAMA, ("q_proj", "v_proj", "dense")),
    "phi3": (LLAMA, ("qkv_proj",)),
    "gpt2": (GPT2, ("c_attn",)),
    "gptj": (GPT2 | {"rotary_dim": 4}, QV),
    "gpt_bigcode": (GPT2, ("c_attn",)),
    "codegen": (GPT2 | {"rotary_dim": 4}, ("qkv_proj",)),
    "gpt_neox": (NEOX, ("query_key_value",)),
    "bloom": ({"vocab_size": 300, "hidden_size": 32, "n_layer": 2, "n_head": 4}, ("query_key_value",)),
    "falcon": ({"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                "new_decoder_architecture": False, "bos_token_id": 1, "eos_token_id": 2}, ("query_key_value",)),
    "mpt": ({"vocab_size": 300, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256}, ("Wqkv",)),
    "opt": ({"vocab_size": 300, "hidden_size": 32, "word_embed_proj_dim": 16, "num_hidden_layers": 2, "ffn_dim": 48,
             "num_attention_heads": 4, "max_position_embeddings": 256, "pad_token_id": 1}, QV),
    "mamba": ({"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}, ("in_proj", "x_proj")),
}  # fmt: skip


def build(name: str, options: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(transformers.CONFIG_MAPPING[name](**options)).eval()
    spread(module)
    return module


def lora(targets: Sequence[str] = QV, **options: Any) -> ModelSpec:
    return ModelSpec(id="tiny", lora=LoraSpec(targets=tuple(targets), **options))


def merged(base: Any, model: ChoiceModel, params: dict[str, Tensor]) -> Any:
    """An untouched model with W + (alpha / r) B A written into its weights by hand."""
    spec = model.spec.lora
    for name, a in params.items():
        if not name.endswith("lora_A.weight"):
            continue
        layer = base.get_submodule(name.removesuffix(".lora_A.weight"))
        delta = spec.alpha / spec.r * params[name.replace("lora_A", "lora_B")] @ a
        with torch.no_grad():
            layer.weight += delta if isinstance(layer, nn.Linear) else delta.T
    return base


def check_answers_as_the_model_itself(model: ChoiceModel, untouched: Any, answers: tuple[str, ...]) -> None:
    model.prepare(answers, seed=3)
    ids = list(answer_tokens(model.tokenizer, answers, "tiny"))
    params = drawn(model)
    with model.assign(params):
        batched = model.logits(one_batch(model)).detach()
        single = one_by_one(model)
    plain = one_by_one(model)
    reference = merged(untouched, model, params)
    with torch.no_grad():
        tokens = [model.tokenizer(prompt, return_tensors="pt")["input_ids"] for prompt in PROMPTS]
        expected = torch.cat([reference(input_ids=t).logits[:, -1, ids] for t in tokens])
    assert batched.shape == (len(PROMPTS), len(answers)) and batched.dtype == torch.float32
    torch.testing.assert_close(batched, single, rtol=0, atol=1e-5)
    torch.testing.assert_close(batched, expected, rtol=1e-5, atol=1e-5)
    assert (batched - plain).abs().max() > 1e-3, "the adapters do nothing"


@pytest.mark.parametrize("name", FAMILIES)
def test_padded_answers_are_those_of_the_untouched_model(name: str, tmp_path: Path) -> None:
    options, targets = FAMILIES[name]
    untouched = build(name, options)
    folder = save(tmp_path / name, untouched, byte_level("<s>"))
    spec = resolve_model(lora(targets), folder)
    model = load_model(spec, folder, CPU)
    embeddings = model._base.get_input_embeddings().weight.detach().clone()
    check_answers_as_the_model_itself(model, untouched, LETTERS[:4])

    head = model._base.get_output_embeddings()
    shapes: list[torch.Size] = []
    hook = head.register_forward_hook(lambda _module, _inputs, out: shapes.append(out.shape))
    model.logits(one_batch(model))
    hook.remove()
    assert head.weight.shape[0] == 4 and shapes == [(len(PROMPTS), 1, 4)]
    assert torch.equal(model._base.get_input_embeddings().weight, embeddings)
    assert len(model.params) == 2 * len({n.rsplit(".lora_", 1)[0] for n in model.params})


REFUSED: dict[str, dict[str, Any]] = {
    "bert": NEOX,  # looks ahead
    "roberta": NEOX | {"is_decoder": True, "pad_token_id": 1},  # counts positions from the padding token's id
    "rwkv": {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32},  # no mask
    "recurrent_gemma": LLAMA | {"num_hidden_layers": 3},  # the recurrence runs over the pads
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_padding_would_change_is_refused(name: str, tmp_path: Path) -> None:
    folder = save(tmp_path / name, build(name, REFUSED[name]), byte_level("<s>"))
    with pytest.raises(ValueError, match="tiny does not answer a padded prompt as it answers the prompt alone"):
        load_model(lora(), folder, CPU)


@pytest.fixture(scope="session")
def embedded() -> ChoiceModel:
    return load_model(ModelSpec(), None, CPU)


@pytest.mark.parametrize("answers", [LETTERS[:2], LETTERS[:4], LETTERS, TRUTHS], ids="".join)
def test_the_embedded_base_answers_as_itself(embedded: ChoiceModel, answers: tuple[str, ...]) -> None:
    untouched = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    check_answers_as_the_model_itself(embedded, untouched, answers)


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2 with strong dropouts of its own, all of which must stay off."""
    options = GPT2 | {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}
    return save(tmp_path_factory.mktemp("gpt2"), build("gpt2", options), byte_level())


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("llama"), build("llama", LLAMA), byte_level("<s>"))


def altered(folder: Path, target: Path, **settings: Any) -> Path:
    """A copy of a model's folder with other settings in its config.json."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | settings))
    return target


# Encoding


def encoder(llama: Path, tokenizer: PreTrainedTokenizerFast, folder: Path) -> ChoiceModel:
    shutil.copytree(llama, folder)
    tokenizer.save_pretrained(folder)
    return load_model(lora(), folder, CPU)


@pytest.mark.parametrize(
    ("start", "end"),
    [("", ""), ("<s>", ""), ("<s>", "</s>"), ("", "</s>"), ("<|x|>", "<|x|>")],
    ids=["none", "bos", "bos-eos", "eos", "one-token-for-both"],
)
def test_prompts_keep_their_bos_and_lose_their_eos(llama: Path, start: str, end: str, tmp_path: Path) -> None:
    tokenizer = byte_level(start, end)
    model = encoder(llama, tokenizer, tmp_path / "m")
    encoded = model.encode(examples(), 320)
    first = [tokenizer.convert_tokens_to_ids(start)] if start else []
    for ids, prompt in zip(encoded.tokens, PROMPTS, strict=True):
        assert list(ids) == first + tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert encoded.truncated == 0
    lengths = [len(ids) for ids in encoded.tokens]

    batch = encoded.batch(range(4))
    assert batch.input_ids.shape[1] % 8 == 0
    assert batch.attention_mask.sum(1).tolist() == lengths
    for row, length in enumerate(lengths):
        assert batch.input_ids[row, -length:].tolist() == list(encoded.tokens[row])
        assert batch.position_ids[row, -length:].tolist() == list(range(length))

    limit = sorted(lengths)[2]
    cut = model.encode(examples(), limit)
    assert cut.truncated == 1
    assert cut.tokens == tuple(ids[:limit] for ids in encoded.tokens), "cut on the right"


def test_a_prompt_that_ends_in_the_eos_as_text_keeps_it(llama: Path, tmp_path: Path) -> None:
    model = encoder(llama, byte_level("<s>", "</s>"), tmp_path / "m")
    ids = model.encode(examples(["Answer:</s>"]), 320).tokens[0]
    assert ids[-1] == model.tokenizer.eos_token_id and ids.count(ids[-1]) == 1


def test_a_prompt_longer_than_the_tokenizer_likes_is_cut_in_silence(
    embedded: ChoiceModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(embedded.tokenizer, "model_max_length", 16)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    encoded = embedded.encode(examples(["A " * 400]), 320)
    assert encoded.truncated == 1 and len(encoded.tokens[0]) == 320
    assert encoded.tokens[0][0] == embedded.tokenizer.bos_token_id
    assert not caplog.records


LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 2.0, "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4, "original_max_position_embeddings": 32}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}


@pytest.mark.parametrize("rope", [LONG, DYNAMIC], ids=["longrope", "dynamic"])
def test_a_prompt_that_would_turn_the_others_positions_is_refused(rope: dict[str, Any], tmp_path: Path) -> None:
    options = LLAMA | {"max_position_embeddings": 32, "rope_parameters": rope}
    model = load_model(lora(), save(tmp_path / "m", build("llama", options), byte_level("<s>")), CPU)
    said = r"tiny rotates positions by the longest prompt of a batch beyond 32 tokens.*\(--set max_length=32\)"
    with pytest.raises(ValueError, match=said):
        model.encode(examples(["A " * 40]), 33)
    assert len(model.encode(examples(["A " * 40]), 32).tokens[0]) == 32


@pytest.mark.parametrize(
    ("settings", "length"),
    [
        ({"rope_parameters": LONG}, 32),
        ({"rope_parameters": DYNAMIC}, 64),
        ({"rope_parameters": {"full": LONG, "sliding": PLAIN}}, 32),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "original_max_position_embeddings": 48}, 48),
        ({"rope_parameters": PLAIN}, None),
        ({"rope_parameters": None}, None),
        ({}, None),
    ],
)
def test_the_length_up_to_which_rotations_are_steady_is_read_from_any_form(
    settings: dict[str, Any], length: int | None
) -> None:
    assert _steady_length(SimpleNamespace(max_position_embeddings=64, **settings)) == length


@pytest.mark.parametrize("name", ["gpt2", "opt", "gptj", "codegen"])
def test_a_prompt_beyond_a_table_of_positions_is_refused(name: str, tmp_path: Path) -> None:
    options, targets = FAMILIES[name]
    size = "max_position_embeddings" if name == "opt" else "n_positions"
    model = load_model(lora(targets), save(tmp_path / name, build(name, options | {size: 40}), byte_level("<s>")), CPU)
    with pytest.raises(ValueError, match="tiny reads at most 40 tokens, and a prompt has 41: set max_length=40"):
        model.encode(examples(["A " * 80]), 41)
    model.prepare(TRUTHS, seed=1)
    assert model.logits(model.encode(examples(["A " * 80]), 40).batch([0])).isfinite().all()


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "falcon", "bloom", "mpt"])
def test_positions_without_a_table_have_no_limit(name: str, tmp_path: Path) -> None:
    options, targets = FAMILIES[name]
    model = load_model(lora(targets), save(tmp_path / name, build(name, options), byte_level("<s>")), CPU)
    assert len(model.encode(examples(["A " * 400]), 320).tokens[0]) == 320


def test_a_tokenizer_of_another_model_is_refused_before_the_model_reads_anything(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", build("llama", LLAMA | {"vocab_size": 20}), byte_level("<s>"))
    said = r"^The tokenizer of tiny has ids up to \d+, its embedding only 20 rows: use the model's own tokenizer\.$"
    with pytest.raises(ValueError, match=said):
        load_model(lora(), folder, CPU)


# Quantisation and precision


@pytest.fixture(scope="session", params=["int8", "nf4"])
def quantised(request: pytest.FixtureRequest) -> ChoiceModel:
    return load_model(ModelSpec(quantization=request.param), None, CPU)


@pytest.fixture(scope="session")
def twin(quantised: ChoiceModel) -> ChoiceModel:
    """The embedded base in float32; for nf4, which rounds weights only, with its weights as they were rounded."""
    import bitsandbytes

    model = load_model(ModelSpec(), None, CPU)
    for name, layer in quantised._base.named_modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            rounded = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            model._base.get_submodule(name).weight.data.copy_(rounded)
    return model


def test_quantised_logits_are_close_to_the_float_ones(quantised: ChoiceModel, twin: ChoiceModel) -> None:
    for model in (quantised, twin):
        model.prepare(LETTERS[:4], seed=1)
    kind = quantised.spec.quantization
    layer = quantised._base.get_submodule("model.layers.0.self_attn.q_proj.base_layer")
    assert layer.weight.dtype == {"int8": torch.int8, "nf4": torch.uint8}[kind]
    bound = {"int8": 0.1, "nf4": 1e-4}[kind]  # of the spread of the logits; int8 rounds its inputs too
    with quantised.assign(drawn(quantised, scale=0.1)), twin.assign(drawn(twin, scale=0.1)):
        exact, rounded = one_by_one(twin), one_by_one(quantised)
        padded = quantised.logits(one_batch(quantised)).detach()
    assert (rounded - exact).abs().max() < bound * exact.std()
    torch.testing.assert_close(padded, rounded, rtol=0, atol=0.03 * float(exact.std()))


def test_quantised_bases_pass_gradients_to_float32_adapters(quantised: ChoiceModel, twin: ChoiceModel) -> None:
    gradients = []
    for model in (quantised, twin):
        model.prepare(LETTERS[:4], seed=1)
        batch = one_batch(model)
        with model.assign(drawn(model, scale=0.1)):
            assert all(p.dtype == torch.float32 for p in model.params.values())
            assert not any(p.requires_grad for n, p in model._module.named_parameters() if "lora_" not in n)
            loss = nn.functional.cross_entropy(model.logits(batch), batch.labels)
            gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.params.values()))]))
    rounded, exact = gradients
    assert rounded.dtype == torch.float32 and rounded.isfinite().all()
    least = {"int8": 0.9, "nf4": 0.9999}[quantised.spec.quantization]
    assert nn.functional.cosine_similarity(rounded, exact, dim=0) > least


def test_int8_layers_leave_their_float16_input_alone() -> None:
    model = load_model(ModelSpec(quantization="int8", dtype="float16"), None, CPU)
    layer = model._base.get_submodule("model.layers.0.self_attn.o_proj")
    x = torch.zeros(2, 3, layer.in_features, dtype=torch.float16)
    x[..., 5] = 4  # its exponential is above the threshold of bitsandbytes' outliers
    x.requires_grad_()
    layer(x.exp()).sum().backward()  # the exponential's backward pass reads its output
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.any()


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_bfloat16_base_has_float32_adapters(quantization: str, embedded: ChoiceModel) -> None:
    model = load_model(ModelSpec(dtype="bfloat16", quantization=quantization), None, CPU)
    model.prepare(TRUTHS, seed=1)
    assert model._base.get_input_embeddings().weight.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in model.params.values())
    with model.assign(drawn(model, scale=0.1)):
        logits = model.logits(one_batch(model))
        logits.square().sum().backward()
    assert logits.dtype == torch.float32
    for parameter in model.params.values():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32 and parameter.grad.any()


def test_a_base_that_cannot_be_quantised_is_refused(tmp_path: Path) -> None:
    sentences = {"falcon": "bitsandbytes quantises no layer of tiny", "mamba": "tiny cannot be loaded in int8"}
    for name, sentence in sentences.items():
        options, targets = FAMILIES[name]
        folder = save(tmp_path / name, build(name, options), byte_level("<s>"))
        with pytest.raises(ValueError, match=sentence):
            load_model(dataclasses.replace(lora(targets), quantization="int8"), folder, CPU)


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_conv1d_layers_and_tied_heads_can_be_quantised(gpt2: Path, quantization: str) -> None:
    spec = dataclasses.replace(lora(["c_attn"]), quantization=quantization)
    model = load_model(spec, gpt2, CPU)
    model.prepare(LETTERS[:4], seed=1)
    params = {name: value.requires_grad_() for name, value in drawn(model).items()}
    logits = model.logits(one_batch(model), params)
    assert all(g.any() for g in torch.autograd.grad(logits.square().sum(), list(params.values())))
    reference = merged(AutoModelForCausalLM.from_pretrained(gpt2), model, {n: p.detach() for n, p in params.items()})
    ids = list(answer_tokens(model.tokenizer, LETTERS[:4], "tiny"))
    expected = [reference(**model.tokenizer(prompt, return_tensors="pt")).logits[0, -1, ids] for prompt in PROMPTS]
    bound = {"none": 1e-4, "int8": 0.1, "nf4": 1.5}[quantization]
    torch.testing.assert_close(logits, torch.stack(expected), rtol=0, atol=bound * float(logits.detach().std()))


# Values, modes and dropout


def values(model: ChoiceModel) -> dict[str, Tensor]:
    return model.snapshot()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_assign_restores_values_also_after_exceptions_and_nested(embedded: ChoiceModel) -> None:
    embedded.prepare(LETTERS[:2], seed=1)
    before, first, second = values(embedded), drawn(embedded, 1), drawn(embedded, 2)
    some = dict(list(second.items())[:3])
    with embedded.assign(first):
        assert same(values(embedded), first)
        with embedded.assign(some):
            assert same(values(embedded), first | some)
        assert same(values(embedded), first)
        with pytest.raises(ZeroDivisionError), embedded.assign(second):
            assert same(values(embedded), second)
            raise ZeroDivisionError
        assert same(values(embedded), first)
    assert same(values(embedded), before)
    wrong = first | {list(first)[-1]: torch.zeros(7, 7)}
    with pytest.raises(ValueError, match=r"has shape \(7, 7\); the adapter has"), embedded.assign(wrong):
        pass
    assert same(values(embedded), before), "a value of another shape leaves the others as they were"
    row = {name: value[:1] for name, value in first.items()}  # copy_ would repeat it
    with pytest.raises(ValueError, match="has shape"), embedded.assign(row):
        pass
    assert same(values(embedded), before)
    with (
        pytest.raises(ValueError, match=r"no adapter 'no\.such'"),
        embedded.assign({"no.such": torch.zeros(1)} | first),
    ):
        pass
    assert same(values(embedded), before)
    with pytest.raises(ZeroDivisionError), embedded.assign(first):
        embedded.load(second)
        raise ZeroDivisionError
    assert same(values(embedded), before)


def test_a_snapshot_is_a_copy(embedded: ChoiceModel) -> None:
    embedded.prepare(LETTERS[:2], seed=1)
    taken = embedded.snapshot()
    embedded.load(drawn(embedded))
    assert not same(taken, values(embedded))
    embedded.load(taken)
    assert same(taken, values(embedded)) and not any(v.requires_grad for v in taken.values())


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_computed_adapters_give_the_same_logits_and_carry_gradients(quantization: str, embedded: ChoiceModel) -> None:
    model = embedded if quantization == "none" else load_model(ModelSpec(quantization=quantization), None, CPU)
    model.prepare(LETTERS[:4], seed=1)
    batch, before = one_batch(model), values(model)
    mean = {name: value.requires_grad_() for name, value in drawn(model, scale=0.1).items()}
    scale = torch.tensor(0.7, requires_grad=True)
    computed = {name: scale * value for name, value in mean.items()}
    logits = model.logits(batch, computed)
    with model.assign({name: value.detach() for name, value in computed.items()}):
        assigned = model.logits(batch)
        direct = torch.autograd.grad(assigned.square().sum(), list(model.params.values()))
    torch.testing.assert_close(logits, assigned, rtol=0, atol=1e-6)
    assert same(values(model), before)
    through = torch.autograd.grad(logits.square().sum(), [*mean.values(), scale])
    for got, expected in zip(through, direct, strict=False):
        torch.testing.assert_close(got, 0.7 * expected, rtol=1e-4, atol=1e-5)
    assert through[-1].abs() > 0
    assert all(p.grad is None for p in model.params.values())
    some = dict(list(computed.items())[:2])
    with model.assign({name: value.detach() for name, value in some.items()}):
        expected = model.logits(batch)
    torch.testing.assert_close(model.logits(batch, some), expected, rtol=0, atol=1e-6)


def test_prepare_starts_afresh_from_its_seed_alone(embedded: ChoiceModel) -> None:
    embedded.prepare(LETTERS[:2], seed=1)
    first = values(embedded)
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(1)
    for name, value in first.items():
        if "lora_A" in name:
            bound = 1 / math.sqrt(value.shape[1])  # Kaiming-uniform with a = sqrt(5), drawn on the CPU in order
            assert torch.equal(value, torch.empty(value.shape).uniform_(-bound, bound, generator=generator))
        else:
            assert not value.any(), "B = 0"
    embedded.load(drawn(embedded))
    batch = one_batch(embedded)
    embedded.logits(batch).sum().backward()
    embedded.prepare(TRUTHS, seed=1)
    assert same(first, values(embedded)) and all(p.grad is None for p in embedded.params.values())
    embedded.prepare(TRUTHS, seed=2)
    assert not same(first, values(embedded))
    assert torch.equal(state, torch.get_rng_state()), "the global stream is left alone"


def test_prepare_thaws_what_a_fit_froze_and_ends_its_training_mode(embedded: ChoiceModel) -> None:
    embedded.prepare(TRUTHS, seed=1)
    next(iter(embedded.params.values())).requires_grad_(False)
    embedded._module.train()
    embedded.prepare(TRUTHS, seed=1)
    assert all(parameter.requires_grad for parameter in embedded.params.values())
    assert not any(module.training for module in embedded._module.modules())


def test_one_base_serves_tasks_with_other_answers(embedded: ChoiceModel) -> None:
    batch = one_batch(embedded)
    rows = {}
    for answers in (LETTERS[:2], LETTERS, TRUTHS, LETTERS[:4]):
        embedded.prepare(answers, seed=1)
        logits = embedded.logits(batch).detach()
        assert logits.shape == (4, len(answers))
        rows |= {(answers, answer): logits[:, i] for i, answer in enumerate(answers)}
    assert not torch.equal(rows[TRUTHS, "True"], rows[TRUTHS, "False"])
    for answers in (LETTERS[:2], LETTERS[:4]):
        for answer in answers:
            torch.testing.assert_close(rows[answers, answer], rows[LETTERS, answer])


def test_a_refused_answer_leaves_the_model_as_it_was(embedded: ChoiceModel) -> None:
    embedded.prepare(TRUTHS, seed=1)
    before, logits = values(embedded), embedded.logits(one_batch(embedded))
    with pytest.raises(ValueError, match="single token"):
        embedded.prepare(("Unfathomable", "Inscrutable"), seed=2)
    assert same(before, values(embedded)) and torch.equal(logits, embedded.logits(one_batch(embedded)))


def test_logits_before_prepare_are_refused_and_forwards_are_counted(llama: Path) -> None:
    model = load_model(lora(), llama, CPU)
    with pytest.raises(RuntimeError, match="Call prepare"):
        model.logits(one_batch(model))
    assert model.forwards == 0
    model.prepare(TRUTHS, seed=1)
    model.logits(one_batch(model))
    model.logits(one_batch(model, PROMPTS[:1]), drawn(model))
    assert model.forwards == 5


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_adapter_dropout_is_on_inside_its_context_only_and_the_bases_own_never(gpt2: Path, rate: float) -> None:
    model = load_model(lora(["c_attn"], dropout=rate), gpt2, CPU)
    model.prepare(LETTERS[:4], seed=1)
    batch = one_batch(model)
    at_zero = model.logits(batch)
    with model.dropout():
        assert torch.equal(model.logits(batch), at_zero), "B = 0: only the base could drop anything"
    model.load(drawn(model))
    still = model.logits(batch)

    def noisy(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model.logits(batch)

    assert torch.equal(noisy(1), noisy(2)) and torch.equal(noisy(1), still)
    with model.dropout():
        assert torch.equal(noisy(1), noisy(1)) and not torch.equal(noisy(1), noisy(2))
        with model.dropout(False):
            assert torch.equal(noisy(1), still)
            with pytest.raises(ZeroDivisionError), model.dropout():
                assert not torch.equal(noisy(1), still)
                raise ZeroDivisionError
            assert torch.equal(noisy(1), still)
        assert not torch.equal(noisy(1), still)
    assert torch.equal(noisy(1), still)

    dropouts = [m for n, m in model._module.named_modules() if isinstance(m, nn.Dropout) and "lora" in n]
    assert len(dropouts) == 2 and all(m.p == rate for m in dropouts)
    kept: list[Tensor] = []
    hooks = [m.register_forward_hook(lambda _m, _i, out: kept.append((out != 0).float().mean())) for m in dropouts]
    with model.dropout():
        noisy(1)
    assert not any(m.training for m in model._module.modules())
    for hook in hooks:
        hook.remove()
    assert abs(float(torch.stack(kept).mean()) - (1 - rate)) < 0.03


def test_a_model_without_adapter_dropout_has_nothing_to_switch_on(gpt2: Path) -> None:
    model = load_model(lora(["c_attn"], dropout=0.0), gpt2, CPU)
    model.prepare(LETTERS[:4], seed=1)
    model.load(drawn(model))
    batch = one_batch(model)
    still = model.logits(batch)
    with model.dropout():
        assert torch.equal(model.logits(batch), still)


def test_lora_settings_are_the_specs(llama: Path) -> None:
    batches = {}
    for r, alpha in ((2, 4.0), (2, 8.0), (4, 8.0)):
        model = load_model(lora(["o_proj", "layers.1.mlp.up_proj"], r=r, alpha=alpha), llama, CPU)
        names = [n.removesuffix(".lora_A.weight") for n in model.params if "lora_A" in n]
        assert names == [
            "model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj", "model.layers.1.mlp.up_proj"
        ]  # fmt: skip
        assert {min(p.shape) for p in model.params.values()} == {r}
        check_answers_as_the_model_itself(model, AutoModelForCausalLM.from_pretrained(llama), LETTERS[:2])
        batches[r, alpha] = model
    assert len(batches) == 3


# What is refused


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        (["q_prj"], "tiny has no layer 'q_prj' for LoRA.*Did you mean 'q_proj'"),
        (["q_proj", "layers.9.v_proj"], "no layer 'layers.9.v_proj'"),
        (["mlp"], "no layer 'mlp'.*Known: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"),
        (["proj"], "no layer 'proj'"),
        (["lm_head"], "no layer 'lm_head' for LoRA .the output layer takes none"),
        (["embed_tokens"], "no layer 'embed_tokens'"),
        (["all-linear"], "no layer 'all-linear'"),
    ],
)
def test_a_layer_that_lora_cannot_take_is_named(llama: Path, targets: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        load_model(lora(targets), llama, CPU)
    caught.match("--set lora.targets=NAME,NAME")


def test_a_layer_whose_weight_is_only_read_takes_no_lora(tmp_path: Path) -> None:
    options, _ = FAMILIES["mamba"]
    folder = save(tmp_path / "m", build("mamba", options), byte_level("<s>"))
    with pytest.raises(ValueError, match=r"LoRA on 'dt_proj' would have no effect in tiny: its layers never run\."):
        load_model(lora(["in_proj", "dt_proj"]), folder, CPU)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dtype": "bf16"}, "dtype 'bf16'. Did you mean 'bfloat16'"),
        ({"dtype": "double"}, "Known: bfloat16, float16, float32"),
        ({"quantization": "int4"}, "quantization 'int4'. Did you mean 'int8'"),
        ({"quantization": "gptq"}, "Known: int8, nf4, none"),
    ],
)
def test_unknown_settings_get_a_near_miss(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        resolve_model(ModelSpec(**options), None)


def test_a_folder_without_a_model_is_refused(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json: give the folder of a model saved by transformers"):
        resolve_model(lora(), tmp_path)
    pickled = altered(llama, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"has no \*\.safetensors.*pickled weights are refused"):
        resolve_model(lora(), pickled)
    with pytest.raises(ValueError, match=r"tiny cannot be loaded.*safetensors"):
        load_model(lora(), pickled, CPU)


def test_an_encoder_decoder_or_a_classifier_is_refused(tmp_path: Path) -> None:
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=300, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
    )
    with pytest.raises(ValueError, match="tiny is an encoder-decoder: use a causal"):
        load_model(lora(), save(tmp_path / "t5", t5, byte_level()), CPU)
    options = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(image_size=16, patch_size=8, **options))
    with pytest.raises(ValueError, match=r"tiny cannot be loaded.*ViTConfig.*Give a causal language model") as caught:
        load_model(lora(), save(tmp_path / "vit", vit, byte_level()), CPU)
    assert len(str(caught.value)) < 600, "not the list of all architectures"


@pytest.mark.parametrize("change", ["missing", "shape", "cut", "headless"])
def test_incomplete_weights_are_refused_not_made_up(llama: Path, change: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = altered(llama, tmp_path / change)
    file = folder / "model.safetensors"
    weights, victim = load_file(file), "model.layers.1.mlp.up_proj.weight"
    if change == "cut":
        file.write_bytes(file.read_bytes()[:5000])
        sentence = "tiny cannot be loaded.*Safetensor"
    else:
        victim = "lm_head.weight" if change == "headless" else victim
        gone = weights.pop(victim)
        save_file(weights | ({victim: gone[:5].clone()} if change == "shape" else {}), file, {"format": "pt"})
        sentence = f"files of tiny lack 1 of the model's weights .*, such as {victim}"
    with pytest.raises(ValueError, match=sentence):
        load_model(lora(), folder, CPU)


def test_a_folder_without_a_tokenizer_is_refused(llama: Path, tmp_path: Path) -> None:
    folder = altered(llama, tmp_path / "m")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"tiny cannot be loaded.*with its tokenizer"):
        load_model(lora(), folder, CPU)


def test_stored_quantised_weights_are_refused(llama: Path, tmp_path: Path) -> None:
    settings = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    folder = altered(llama, tmp_path / "m", quantization_config=settings)
    with pytest.raises(ValueError, match="weights of tiny are stored quantised"):
        load_model(lora(), folder, CPU)


def test_a_base_that_brings_an_adapter_is_refused(llama: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    folder = altered(llama, tmp_path / "m")
    get_peft_model(AutoModelForCausalLM.from_pretrained(llama), LoraConfig(target_modules=["q_proj"])).save_pretrained(
        folder
    )
    with pytest.raises(ValueError, match="tiny comes with an adapter of its own: merge it"):
        load_model(lora(), folder, CPU)


@pytest.mark.parametrize("part", ["config", "tokenizer", "unknown"])
def test_a_models_own_code_is_never_run(llama: Path, part: str, tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    code = f"open({str(mark)!r}, 'w').close()\nThing = None\n"
    names = {
        "AutoConfig": "own.Thing",
        "AutoModelForCausalLM": "own.Thing",
        "AutoTokenizer": ["own.Thing", "own.Thing"],
    }
    settings = {"config": {"auto_map": names}, "unknown": {"auto_map": names, "model_type": "own"}, "tokenizer": {}}
    folder = altered(llama, tmp_path / "m", **settings[part])
    (folder / "own.py").write_text(code)
    if part == "tokenizer":
        file = folder / "tokenizer_config.json"
        file.write_text(
            json.dumps(json.loads(file.read_text()) | {"auto_map": names, "tokenizer_class": "OwnTokenizer"})
        )
    try:
        load_model(lora(), folder, CPU)
        assert part == "config", "an architecture of transformers is loaded by its own code"
    except ValueError as error:
        assert "tiny cannot be loaded" in str(error) and "needs no code of its own" in str(error)
    assert not mark.exists()


# Identity


def test_a_model_is_its_content_not_its_place(llama: Path, tmp_path: Path) -> None:
    spec = lora()
    first = resolve_model(spec, llama)
    assert first.id.startswith("local:") and first.revision == "" and first.lora == spec.lora
    copy = altered(llama, tmp_path / "another name")
    (copy / "config.json").write_bytes((llama / "config.json").read_bytes())
    (copy / "README.md").write_text("not part of the model")
    assert resolve_model(dataclasses.replace(spec, id=str(copy)), copy) == first
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    assert resolve_model(spec, copy) != first
    for file in ("config.json", "tokenizer.json"):
        changed = altered(llama, tmp_path / file)
        (changed / "config.json").write_bytes((llama / "config.json").read_bytes())
        assert resolve_model(spec, changed) == first
        (changed / file).write_text((changed / file).read_text() + "\n")
        assert resolve_model(spec, changed) != first


def test_the_embedded_base_has_a_fixed_identity() -> None:
    first = resolve_model(ModelSpec(), None)
    assert first.id == "embedded" and len(first.revision) == 16
    assert resolve_model(first, None) == first


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub that holds org/name at one commit."""
    from huggingface_hub import constants

    repository = tmp_path / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(llama, repository / "snapshots" / COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("revision", ["", "main", COMMIT])
def test_a_cached_hub_model_loads_offline_at_its_commit(hub: Path, revision: str) -> None:
    spec = resolve_model(ModelSpec(id="org/name", revision=revision), None)
    assert (spec.id, spec.revision) == ("org/name", COMMIT)
    model = load_model(spec, None, CPU)
    model.prepare(TRUTHS, seed=1)
    assert model.logits(one_batch(model)).isfinite().all()


@pytest.mark.parametrize(("name", "revision"), [("org/nothing", ""), ("org/name", "v2"), ("not/a/name", "")])
def test_a_hub_model_that_is_not_there_gets_a_sentence(hub: Path, name: str, revision: str) -> None:
    with pytest.raises(ValueError, match=f"Model '{name}' at revision .* was not found .*hf download {name}"):
        resolve_model(ModelSpec(id=name, revision=revision), None)


def test_a_pinned_commit_that_is_not_there_gets_a_sentence(hub: Path) -> None:
    spec = resolve_model(ModelSpec(id="org/name", revision="f" * 40), None)
    with pytest.raises(ValueError, match="org/name cannot be loaded"):
        load_model(spec, None, CPU)


# Noise

QUIET = """
import sys
from pathlib import Path
import torch
from bench.model.choice_model import load_model
from bench.specs import LoraSpec, ModelSpec
from bench.task import Example

torch.set_num_threads(1)
gpt2 = Path(sys.argv[1])
for folder, *options in [
    (None, "none", "float32"), (None, "int8", "float32"), (None, "nf4", "bfloat16"), (gpt2, "int8", "float32")
]:
    lora = LoraSpec(targets=("c_attn",) if folder else ("q_proj",))
    spec = ModelSpec(id="tiny" if folder else "embedded", quantization=options[0], dtype=options[1], lora=lora)
    model = load_model(spec, folder, torch.device("cpu"))
    model.prepare(("A", "B"), 1)
    batch = model.encode([Example("Long " * 2000 + "Answer:", 0), Example("Answer:", 1)], 64).batch([0, 1])
    with model.dropout():
        model.logits(batch).sum().backward()
        model.logits(batch, {name: 2 * p for name, p in model.params.items()}).sum().backward()
print("done")
"""


def test_loading_and_training_print_nothing(gpt2: Path, repository: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = altered(gpt2, tmp_path / "m")
    file = folder / "model.safetensors"
    save_file(load_file(file) | {"left.over": torch.zeros(3)}, file, {"format": "pt"})
    command = [sys.executable, "-c", QUIET, str(folder)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "done\n", done.stderr
    assert done.stderr == ""
