"""Tiny random language models and tokenizers, and helpers to compare them, for the tests of bench/model."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from bench.data.batches import Batch
from bench.method import FitJob, PredictJob
from bench.model.answers import answer_tokens
from bench.model.choice_model import ChoiceModel
from bench.model.forward import side_by_side
from bench.posterior import Params, Posterior
from bench.specs import DataSpec, FitSpec, LoraSpec, ModelSpec, TrainSpec
from bench.task import Example
from bench.train.checkpoint import Checkpointing

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


def logits_of_draws(model: ChoiceModel, batch: Batch, draws: Iterable[Params]) -> Tensor:
    """(S, B, C): the logits of S draws of the adapters, many of which share a pass."""
    found, waiting = [], list(draws)
    for start in range(0, len(waiting), 50):
        some = waiting[start : start + 50]
        with side_by_side.stacked(model.adapters, side_by_side.stack(model.adapters, some), batch):
            logits = model.logits(side_by_side.repeated(batch, len(some)))
        found.append(logits.reshape(len(some), len(batch), -1))
    return torch.cat(found)


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
    "smollm3": (LLAMA, QV),
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


def saved(name: str, options: dict[str, Any]) -> Path:
    """A folder with the model that :func:`build` makes and a tokenizer with a BOS, made once; to be read only."""
    return _saved(name, json.dumps(options))


@functools.cache
def _saved(name: str, options: str) -> Path:
    folder = Path(tempfile.mkdtemp(dir=_FOLDERS.name)) / name
    return save(folder, build(name, json.loads(options)), byte_level("<s>"))


_FOLDERS = tempfile.TemporaryDirectory(prefix="tiny-")


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


def altered(folder: Path, target: Path, **settings: Any) -> Path:
    """A copy of a model's folder with other settings in its config.json."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | settings))
    return target


def values(model: ChoiceModel) -> dict[str, Tensor]:
    return model.snapshot()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def fit_job(model: ChoiceModel, folder: Path, **train: Any) -> FitJob:
    """A fit of the tiny examples; the model is prepared already."""
    spec = FitSpec(
        method="tiny", version=1, options={}, data=DataSpec(task="notes_two", version=1, revision=""), holdout=0.0,
        model=model.spec, train=TrainSpec(**train), seed=1,
    )  # fmt: skip
    checkpointing = Checkpointing(folder / "checkpoint.safetensors")
    return FitJob(spec, lambda: model, lambda: model.encode(examples(), 320), checkpointing)


def predict_job(model: ChoiceModel, posterior: Posterior, answers: Sequence[str] = LETTERS[:2]) -> PredictJob:
    """A prediction of the tiny examples."""
    generator = torch.Generator().manual_seed(0)
    return PredictJob(posterior, tuple(examples()), tuple(answers), generator, 4, lambda: model, 320)
