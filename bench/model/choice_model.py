"""ChoiceModel: a causal language model with LoRA that answers multiple-choice prompts."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.data.batches import Batch, Encoded
from bench.errors import ModelNotUsable
from bench.model import checks
from bench.model.adapters import add_lora, dropouts, located, trainable
from bench.model.answers import answer_rows, answer_tokens, closing_tokens
from bench.model.base import (
    EMBEDDED,
    accepted,
    explained,
    forward_inputs,
    load_base,
    load_tokenizer,
    output_layer,
    silence,
)
from bench.posterior import Params
from bench.specs import ModelSpec
from bench.task import Example

PROBING = "cannot answer a text prompt"


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
        self.tokenizer = load_tokenizer(spec, folder)
        self._base = base = load_base(spec, folder, device)
        self._closing = closing_tokens(self.tokenizer)
        self._head = output_layer(base, spec)
        self._accepts = accepted(base, spec)
        config = base.config.get_text_config(decoder=True)
        self._steady = checks.steady_length(config)
        self._places = checks.learned_places(base, config)
        probe = self._probe()
        with silence(), explained(spec, PROBING):
            checks.check_padding(spec, base, self._inputs, probe)
        self._module = add_lora(base, spec)
        self._module.eval()
        self._full_names = trainable(self._module)
        parameters = dict(self._module.named_parameters())
        self.params: dict[str, nn.Parameter] = {name: parameters[full] for name, full in self._full_names.items()}
        self.adapters = located(self._module, self._full_names)
        with silence(), explained(spec, PROBING):
            checks.check_targets(spec, self.adapters, lambda: base(**self._inputs(probe.batch([0]))))
        self._dropouts = dropouts(self._module)
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
        self._base.set_output_embeddings(answer_rows(self._head, ids))

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
        rows = len(self._base.get_input_embeddings().weight)
        checks.check_readable(self.spec, tokens, pad, rows, self._places, self._steady)
        return Encoded(tuple(tokens), tuple(examples), pad, self.device, truncated)

    def _probe(self) -> Encoded:
        """A short prompt, cut to what the model can read."""
        limits = [limit for limit in (self._places, self._steady) if limit is not None]
        return self.encode([checks.PROBE], min([checks.PROBE_LENGTH, *limits]))

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        return forward_inputs(self._accepts, batch)

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


def load_model(spec: ModelSpec, path: Path | None, device: torch.device) -> ChoiceModel:
    """Load base, tokenizer and adapters on ``device``; ``path`` is the folder of a local model.

    Raises:
        ModelNotUsable: it cannot be loaded, or would answer wrongly; the message names the fix.
    """
    folder = EMBEDDED if spec.id == "embedded" else path if path is not None else spec.id
    try:
        return ChoiceModel(spec, folder, device)
    except ModelNotUsable:
        raise
    except ValueError as error:  # a probe that the model cannot read
        raise ModelNotUsable(str(error)) from error
