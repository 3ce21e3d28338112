"""ChoiceModel: a causal language model with LoRA that answers multiple-choice prompts.

The only file that knows transformers, peft and bitsandbytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.data.batches import Batch, Encoded
from bench.errors import near_miss
from bench.posterior import Params
from bench.specs import ModelSpec
from bench.task import Example

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTIZATIONS = ("none", "int8", "nf4")
EMBEDDED = Path(__file__).parent / "embedded"
_ADAPTER = "default"  # PEFT's name of the one adapter we add
_PROBE = Example("Which of these words names a colour? A. green B. seven Answer:", 0)
_PROBE_LENGTH = 64  # tokens at most


class Adapter(NamedTuple):
    """Where an adapter parameter lives: the linear map whose weight it is, and the layer of the base it adapts.

    ``first``: the map reads the layer's own input (A does; B reads what A made).
    """

    linear: nn.Module
    host: nn.Module
    first: bool


class ChoiceModel:
    """Base + LoRA, read out at the answer tokens only.

    The base is frozen and always in evaluation mode; the adapters (float32) are the only parameters. One loaded base
    serves many fits: :meth:`prepare` sets the answers of a task and fresh adapters.

    Attributes:
        params: the adapter parameters by name, in the model's order; P entries in all.
        adapters: the linear map and the adapted layer of every adapter parameter, by its name in ``params``.
    """

    def __init__(self, spec: ModelSpec, folder: Path | str, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        self.tokenizer = _load_tokenizer(spec, folder)
        base = _load_base(spec, folder, device)
        self._closing = _closing_tokens(self.tokenizer)
        head = base.get_output_embeddings()
        weight = getattr(head, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
            raise ValueError(f"{spec.id} has no output layer with a weight per token: use a causal language model.")
        self._head = head
        self._accepts = set(inspect.signature(base.forward).parameters)
        if "attention_mask" not in self._accepts:
            raise ValueError(f"{spec.id} takes no attention mask, so padded batches would change its answers.")
        self._base = base
        config = base.config.get_text_config(decoder=True)
        self._steady = _steady_length(config)
        self._places = _learned_places(base, config)
        self._check_padding()
        self._module = _add_lora(base, spec)
        self._module.eval()
        self.params: dict[str, nn.Parameter] = {}
        self._full_names: dict[str, str] = {}
        for full, parameter in self._module.named_parameters():
            parameter.requires_grad_(f".{_ADAPTER}" in full and "lora_" in full)
            if parameter.requires_grad:
                short = full.removeprefix("base_model.model.").replace(f".{_ADAPTER}", "")
                self.params[short] = parameter
                self._full_names[short] = full
        find = self._module.get_submodule
        self.adapters = {
            name: Adapter(find(full.removesuffix(".weight")), find(full[: full.index(".lora_")]), ".lora_A." in full)
            for name, full in self._full_names.items()
        }
        self._check_targets()
        self._dropouts = [
            module
            for name, module in self._module.named_modules()
            if "lora_dropout" in name and isinstance(module, nn.Dropout)
        ]
        self._answer_ids: tuple[int, ...] = ()
        self.forwards = 0  # examples passed forward since loading, for the cost table

    def prepare(self, answers: Sequence[str], seed: int) -> None:
        """Read out at ``answers`` from now on, and start from fresh adapters: A ~ Kaiming-uniform(seed), B = 0.

        The draw is made on the CPU, so every device and every method starts from the same adapters (Hu et al. 2021).
        """
        self._set_answers(answer_tokens(self.tokenizer, answers, self.spec.id))
        self._module.eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.params.items():
                fresh = torch.zeros(parameter.shape)
                if "lora_A" in name:
                    nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator)
                parameter.copy_(fresh)
                parameter.grad = None
                parameter.requires_grad_(True)  # a fit before this one may have frozen it

    def _set_answers(self, ids: tuple[int, ...]) -> None:
        """Put the answer rows of the output layer in its place, so no (B, T, vocabulary) logits are ever made."""
        self._answer_ids = ids
        bias = getattr(self._head, "bias", None)
        rows = nn.Linear(self._head.weight.shape[1], len(ids), bias=bias is not None, device="meta").eval()
        rows.weight = nn.Parameter(self._head.weight.detach()[list(ids)], requires_grad=False)
        if bias is not None:
            rows.bias = nn.Parameter(bias.detach()[list(ids)], requires_grad=False)
        self._base.set_output_embeddings(rows)

    def encode(self, examples: Sequence[Example], max_length: int) -> Encoded:
        """Tokenise prompts, cut on the right at ``max_length`` tokens, with the tokenizer's own BOS and no EOS.

        Raises:
            ValueError: the model cannot read such prompts, or would answer them differently from batch to batch.
        """
        tokens = []
        truncated = 0
        for ids in self.tokenizer([example.prompt for example in examples], verbose=False)["input_ids"]:
            ids = ids[: len(ids) - self._closing]  # an EOS would move the read-out off the prompt's end
            truncated += len(ids) > max_length
            tokens.append(tuple(ids[:max_length]))
        special = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id, 0)
        pad = next(token for token in special if token is not None)
        self._check_readable(tokens, pad)
        return Encoded(tuple(tokens), tuple(examples), pad, self.device, truncated)

    def _check_readable(self, tokens: Sequence[tuple[int, ...]], pad: int) -> None:
        largest = max((max(ids, default=pad) for ids in tokens), default=pad)
        rows = len(self._base.get_input_embeddings().weight)
        if max(largest, pad) >= rows:
            raise ValueError(
                f"The tokenizer of {self.spec.id} has ids up to {max(largest, pad)}, its embedding only {rows} rows: "
                "use the model's own tokenizer."
            )
        longest = max(map(len, tokens), default=0)
        if self._places is not None and longest > self._places:
            raise ValueError(
                f"{self.spec.id} reads at most {self._places} tokens, and a prompt has {longest}: set "
                f"max_length={self._places} (--set max_length={self._places})."
            )
        if self._steady is not None and longest > self._steady:
            raise ValueError(
                f"{self.spec.id} rotates positions by the longest prompt of a batch beyond {self._steady} tokens, so "
                f"answers would depend on it: set max_length={self._steady} (--set max_length={self._steady})."
            )

    def logits(self, batch: Batch, params: Params | None = None) -> Tensor:
        """(B, C) logits of the answer tokens at the last position, in float32 or wider.

        ``params`` stand in for the adapters of the same names and may carry a graph of their own (variational methods
        differentiate through them); without them the model's own adapters are used.
        """
        if not self._answer_ids:
            raise RuntimeError("Call prepare(answers, seed) before asking for logits.")
        inputs = self._inputs(batch)
        self.forwards += len(batch)
        if params is None:
            out = self._module(**inputs)
        else:
            named = {self._full_names[name]: value for name, value in params.items()}
            out = torch.func.functional_call(self._module, named, kwargs=inputs)
        logits: Tensor = out.logits[:, -1, :]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        """The arguments of the base's forward pass, as far as it takes them."""
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        optional = {"position_ids": batch.position_ids, "use_cache": False, "logits_to_keep": 1}
        inputs.update({name: value for name, value in optional.items() if name in self._accepts})
        return inputs

    @torch.no_grad()
    def _check_padding(self) -> None:
        """Refuse a base whose answer to a padded prompt is not what it says at that place when it reads text alone.

        Some ignore the mask or count positions from the pads, some look ahead; they do not say so.
        """
        tokens = self._probe().tokens[0]
        places = (len(tokens) // 2, len(tokens))
        batch = Encoded(tuple(tokens[:n] for n in places), (_PROBE, _PROBE), tokens[0], self.device, 0).batch([0, 1])
        with _quietly(self.spec):
            padded = self._base(**self._inputs(batch)).logits[:, -1].float()
            whole = self._base(input_ids=torch.tensor([tokens], device=self.device)).logits[0].float()
        alone = whole[[n - 1 for n in places]]
        change = float((padded - alone).square().mean().sqrt() / alone.std())
        exact = self.spec.dtype == "float32" and self.spec.quantization == "none"
        if not change <= (1e-4 if exact else 0.1):
            raise ValueError(
                f"{self.spec.id} does not answer a padded prompt as it answers the prompt alone (its logits change by "
                f"{change:.1g} of their spread): it is not causal, ignores the attention mask or counts positions from "
                "the pads. Use another model."
            )

    def _probe(self) -> Encoded:
        """A short prompt, cut to what the model can read."""
        limits = [limit for limit in (self._places, self._steady) if limit is not None]
        return self.encode([_PROBE], min([_PROBE_LENGTH, *limits]))

    @torch.no_grad()
    def _check_targets(self) -> None:
        """Refuse a LoRA target none of whose layers is called: some models only read the weight of a layer."""
        ran: dict[str, bool] = {}
        hooks = []
        for name, adapter in self.adapters.items():
            if not adapter.first:
                continue
            target = name.split(".lora_")[0].rsplit(".", 1)[-1]
            ran.setdefault(target, False)
            hooks.append(adapter.linear.register_forward_hook(lambda *_, target=target: ran.update({target: True})))
        try:
            with _quietly(self.spec):
                self._base(**self._inputs(self._probe().batch([0])))
        finally:
            for hook in hooks:
                hook.remove()
        for target, it_ran in ran.items():
            if not it_ran:
                raise ValueError(
                    f"LoRA on '{target}' would have no effect in {self.spec.id}: its layers never run. Choose other "
                    "lora.targets."
                )

    @contextlib.contextmanager
    def assign(self, params: Params) -> Iterator[None]:
        """Adapters set to the values of ``params`` inside, restored on the way out, also after an exception."""
        before = {name: self.params[name].detach().clone() for name in params if name in self.params}
        try:
            self.load(params)
            yield
        finally:
            self.load(before)

    def load(self, params: Params) -> None:
        """Copy values into the adapters of the same names.

        Raises:
            ValueError: there is no such adapter, or it has another shape (copying would repeat a value to fit).
        """
        for name, value in params.items():
            if name not in self.params:
                raise ValueError(f"The model has no adapter '{name}'; it has such as '{next(iter(self.params))}'.")
            if value.shape != self.params[name].shape:
                have, wanted = tuple(value.shape), tuple(self.params[name].shape)
                raise ValueError(f"The value of adapter '{name}' has shape {have}; the adapter has {wanted}.")
        with torch.no_grad():
            for name, value in params.items():
                self.params[name].copy_(value)

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of all adapters as they are now."""
        return {name: parameter.detach().clone() for name, parameter in self.params.items()}

    @contextlib.contextmanager
    def dropout(self, on: bool = True) -> Iterator[None]:
        """Adapter dropout on (or off) inside, as it was on the way out. The base's own dropouts are never on."""
        before = [module.training for module in self._dropouts]
        try:
            for module in self._dropouts:
                module.train(on)
            yield
        finally:
            for module, mode in zip(self._dropouts, before, strict=True):
                module.train(mode)


def answer_tokens(tokenizer: Any, answers: Sequence[str], model: str) -> tuple[int, ...]:
    """The token ids that answer a prompt: the one token each answer adds after ``Answer:``.

    The form with a leading space is taken where each answer is one token in it, else the bare form.

    Raises:
        ValueError: an answer is more than one token in both forms, or two answers share one.
    """

    def added(text: str) -> list[int]:
        cue = tokenizer("Answer:", add_special_tokens=False)["input_ids"]
        whole = tokenizer("Answer:" + text, add_special_tokens=False)["input_ids"]
        return list(whole[len(cue) :]) if whole[: len(cue)] == cue else []

    tried = {}
    for space in (" ", ""):
        tokens = [added(space + answer) for answer in answers]
        unknown = tokenizer.unk_token_id
        if all(len(t) == 1 and t[0] != unknown for t in tokens) and len({t[0] for t in tokens}) == len(answers):
            return tuple(t[0] for t in tokens)
        tried[space] = {answer: tokenizer.convert_ids_to_tokens(t) for answer, t in zip(answers, tokens, strict=True)}
    raise ValueError(
        f"The tokenizer of {model} does not give each answer a single token of its own after 'Answer:' "
        f"(with a space: {tried[' ']}; without: {tried['']}). Use another model or a task with other answers."
    )


def _steady_length(config: Any) -> int | None:
    """The longest prompt that is rotated as if it were alone; None where every prompt is."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [kind for kind in rope.values() if isinstance(kind, Mapping)] or [rope]  # one, or one per layer type
    key, limits = "original_max_position_embeddings", []
    for kind in kinds:
        if kind.get("rope_type", kind.get("type")) in ("dynamic", "longrope"):
            limits.append(kind.get(key) or getattr(config, key, None) or config.max_position_embeddings)
    return min(limits, default=None)


def _learned_places(base: Any, config: Any) -> int | None:
    """The number of positions the base has a table for; None where it computes them or has none."""
    known = getattr(config, "max_position_embeddings", None)
    if not isinstance(known, int):
        return None
    words = base.get_input_embeddings()
    tables = [m.num_embeddings - known for m in base.modules() if isinstance(m, nn.Embedding) and m is not words]
    fixed = [len(buffer) - known for name, buffer in base.named_buffers() if name.endswith("embed_positions")]
    return known if {0, 2} & set(tables) or 0 in fixed else None  # OPT's table has 2 rows more


def _closing_tokens(tokenizer: Any) -> int:
    """The number of tokens that the tokenizer puts after a text of its own accord, such as an EOS."""
    bare = tokenizer("Answer:", add_special_tokens=False)["input_ids"]
    whole = tokenizer("Answer:")["input_ids"]
    extra = len(whole) - len(bare)
    return next((extra - lead for lead in range(extra + 1) if whole[lead : lead + len(bare)] == bare), 0)


def resolve_model(spec: ModelSpec, path: Path | None) -> ModelSpec:
    """The spec with its identity filled in: the hub commit, or the hash of a local folder's files.

    ``path`` is the folder of a local model (``spec.id`` is then replaced by ``local:<hash>``).

    Raises:
        ValueError: an unknown quantisation or dtype, or a model that cannot be found; the message names the fix.
    """
    import dataclasses

    if spec.quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization '{spec.quantization}'.{near_miss(spec.quantization, QUANTIZATIONS)}")
    if spec.dtype not in DTYPES:
        raise ValueError(f"dtype '{spec.dtype}'.{near_miss(spec.dtype, DTYPES)}")
    if spec.id == "embedded":
        return dataclasses.replace(spec, revision=_fingerprint(EMBEDDED))
    if path is not None:
        return dataclasses.replace(spec, id=f"local:{_fingerprint(path)}", revision="")
    return dataclasses.replace(spec, revision=_hub_commit(spec.id, spec.revision or "main"))


def _fingerprint(folder: Path) -> str:
    """A hash over the files that define a model (weights, configuration, tokenizer), whatever the folder is called."""
    wanted = ("*.safetensors", "*.json", "*.model", "*.txt")
    files = sorted({file for pattern in wanted for file in folder.glob(pattern)}, key=lambda file: file.name)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json: give the folder of a model saved by transformers.")
    if not any(file.suffix == ".safetensors" for file in files):
        raise ValueError(f"{folder} has no *.safetensors: save the model in that format (pickled weights are refused).")
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            whole.update(f"{file.name}:{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()[:16]


def _hub_commit(name: str, revision: str) -> str:
    """The commit a hub revision points to, asked of the hub, or of the local cache when offline."""
    from huggingface_hub import hf_hub_download

    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    try:
        return Path(hf_hub_download(name, "config.json", revision=revision)).parent.name
    except Exception as error:  # the hub client raises many kinds; all of them mean the same to the user
        raise ValueError(
            f"Model '{name}' at revision '{revision}' was not found on the hub or in the local cache "
            f"({type(error).__name__}). Check the name, log in if the model is gated, fetch it first with "
            f"`hf download {name}`, or give the path of a local folder."
        ) from error


def load_model(spec: ModelSpec, path: Path | None, device: torch.device) -> ChoiceModel:
    """Load base, tokenizer and adapters on ``device``; ``path`` is the folder of a local model."""
    folder = EMBEDDED if spec.id == "embedded" else path if path is not None else spec.id
    return ChoiceModel(spec, folder, device)


@contextlib.contextmanager
def _quietly(spec: ModelSpec) -> Iterator[None]:
    """Reports of transformers are off inside, and what it raises on loading or trying a model becomes a sentence."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # missing files, damaged files, unknown architectures, remote code: many kinds
        reason = str(error).strip().split("\n")[0][:300]
        how = "" if spec.quantization == "none" else f" in {spec.quantization}"
        raise ValueError(
            f"{spec.id} cannot be loaded{how} ({type(error).__name__}: {reason}). "
            "Give a causal language model of transformers that needs no code of its own, with its tokenizer and its "
            "weights as safetensors."
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)


def _load_tokenizer(spec: ModelSpec, folder: Path | str) -> Any:
    from transformers import AutoTokenizer

    with _quietly(spec):
        return AutoTokenizer.from_pretrained(folder, **_safely(spec, folder))


def _safely(spec: ModelSpec, folder: Path | str) -> dict[str, Any]:
    """How anything is loaded: no code from the model's files, and a hub model at its pinned commit."""
    return {"trust_remote_code": False, **({"revision": spec.revision} if isinstance(folder, str) else {})}


def _load_base(spec: ModelSpec, folder: Path | str, device: torch.device) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    _quiet_bitsandbytes()
    dtype = DTYPES[spec.dtype]
    with _quietly(spec):
        config = AutoConfig.from_pretrained(folder, **_safely(spec, folder))
    if config.is_encoder_decoder:
        raise ValueError(f"{spec.id} is an encoder-decoder: use a causal (decoder-only) language model.")
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(
            f"The weights of {spec.id} are stored quantised: use the original ones and let --quantization do it."
        )
    options = {**_safely(spec, folder), "dtype": dtype, "use_safetensors": True, "ignore_mismatched_sizes": True}
    if spec.quantization == "int8":
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    if spec.quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    if spec.quantization != "none":
        _require_bitsandbytes(spec)
        options["device_map"] = {"": str(device)}
    loader: Any = AutoModelForCausalLM
    with _quietly(spec):
        model, report = loader.from_pretrained(folder, output_loading_info=True, **options)
    if lacking := sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}):
        raise ValueError(
            f"The files of {spec.id} lack {len(lacking)} of the model's weights (or have them in another shape), such "
            f"as {lacking[0]}, and random ones would stand in for them: use a complete causal language model."
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(f"{spec.id} comes with an adapter of its own: merge it into the weights, or remove it.")
    if spec.quantization == "nf4" and device.type == "cpu":
        _portable_nf4(model)
    if spec.quantization == "int8" and device.type == "cpu" and dtype == torch.float16:
        _spare_inputs(model)
    if spec.quantization == "none":
        model.to(device)
    elif all(parameter.is_floating_point() for parameter in model.parameters()):
        raise ValueError(f"bitsandbytes quantises no layer of {spec.id}: use --quantization none.")
    return model.requires_grad_(False)


def _require_bitsandbytes(spec: ModelSpec) -> None:
    try:
        import bitsandbytes  # noqa: F401  (only to see whether it is there)
    except ImportError as error:
        raise ValueError(
            f"quantization '{spec.quantization}' needs bitsandbytes: pip install bitsandbytes, or use 'none'."
        ) from error


def _portable_nf4(model: nn.Module) -> None:
    """Keep nf4 layers on the same path on every CPU.

    With AVX512-BF16, bitsandbytes repacks weights, which fails for widths that are no multiple of its block and gives
    other numbers than every other processor.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _spare_inputs(model: nn.Module) -> None:
    """Give int8 layers a copy of their float16 input.

    On a CPU bitsandbytes blanks out large entries of the input itself, then puts them back; autograd, which may need
    that tensor for its backward pass, then refuses it.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear8bitLt":
            module.register_forward_pre_hook(lambda _, args: (args[0].clone(), *args[1:]))


def _quiet_bitsandbytes() -> None:
    """bitsandbytes remarks on every int8 product that its input is rounded to float16; that goes without saying."""
    warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _add_lora(base: Any, spec: ModelSpec) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    head = base.get_output_embeddings()
    layers = [n for n, m in base.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not head]
    for target in spec.lora.targets:
        if not any(f".{layer}".endswith(f".{target}") for layer in layers):
            known = {layer.rsplit(".", 1)[-1] for layer in layers}
            raise ValueError(
                f"{spec.id} has no layer '{target}' for LoRA (the output layer takes none).{near_miss(target, known)} "
                f"Set it with --set lora.targets=NAME,NAME."
            )
    config = LoraConfig(
        r=spec.lora.r,
        lora_alpha=spec.lora.alpha,
        lora_dropout=spec.lora.dropout,
        target_modules=list(spec.lora.targets),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT remarks on fan_in_fan_out for GPT-2's Conv1D, and sets it right
        model = get_peft_model(base, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # float32 adapters over any base (PROTOCOL: code)
    return model
