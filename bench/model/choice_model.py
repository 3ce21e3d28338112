"""ChoiceModel: a causal language model with LoRA that answers multiple-choice prompts."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.data.batches import Batch, Encoded, ends_in_cue
from bench.errors import ModelNotUsable
from bench.model import checks
from bench.model.adapters import (
    Adapter,
    Parameters,
    adapted_rows,
    add_lora,
    choose_targets,
    linear_layers,
)
from bench.model.answers import answer_rows, answer_tokens, check_rows
from bench.model.base import Base, explained, layers_of, load_base, repeated_layers
from bench.model.forward.at_ends import LastTokens
from bench.model.forward.compiled import Compiled
from bench.model.forward.packed_attention import attend_by_prompt
from bench.model.forward.recompute import Recompute
from bench.model.guard import Guard
from bench.model.identity import opened
from bench.model.memory import check_same
from bench.model.placement import DeviceMap, device_of, follow_inputs
from bench.model.prompts import PLAIN
from bench.model.remarks import collected
from bench.model.tokens import Tokens
from bench.posterior import Params
from bench.specs import ModelSpec
from bench.task import Example

PROBING = "cannot answer a text prompt"
SMALL = 2**24  # weights of a base at most


@dataclasses.dataclass
class _Passed:
    """A count that a guard does not turn back."""

    count: int = 0


class LastLayer(NamedTuple):
    """The answer head at the last position of B prompts.

    Attributes:
        features: (B, d), what the head reads.
        logits: (B, C), of the answers.
        slopes: (B, C, C), the derivative of logit c in the head's output e: the identity, unless the model scales or
            caps its logits.
    """

    features: Tensor
    logits: Tensor
    slopes: Tensor


class ChoiceModel:
    """Base + LoRA, read out at the answer tokens only.

    The base is frozen and always in evaluation mode; the adapters (float32) are the only parameters. One loaded base
    serves many fits: :meth:`prepare` sets the answers of a task and fresh adapters.

    Attributes:
        warnings: sentences about the model that readers of its numbers must know.
    """

    def __init__(self, spec: ModelSpec, base: Base, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        self._loaded = base
        self.name, self.tokenizer = base.name, base.tokenizer
        self._base = self._module = model = base.model
        self._tokens = Tokens(self.tokenizer, self.name, spec.prompt)
        config = model.config.get_text_config(decoder=True)
        self._steady = checks.steady_length(config)
        self._places = checks.learned_places(model, config)
        probe = self._probe()
        with collected(), explained(base.name, spec, PROBING):
            checks.check_padding(spec, base, probe)
            if spec.packing:
                attend_by_prompt(model, base.accepts)
                checks.check_packing(spec, base, probe, self._places)
            if spec.shared_prefix:
                checks.check_shared_prefix(spec, base, probe)
            layers = linear_layers(model)
            ran = checks.layers_that_run(layers, lambda: model(**base.inputs(probe.batch([0]))))
        self.targets = choose_targets(spec.lora, base.name, layers, ran)
        add_lora(model, spec.lora, self.targets.layers)
        model.eval()
        self._adapters = Parameters.of(model)
        self._magnitudes = self._magnitudes_of_layers = self._adapters.magnitudes()
        self.warnings = [*base.warnings, *self._remarks()]
        self._answer_ids: tuple[int, ...] = ()
        self._passed = _Passed()
        self._recompute: Recompute | None = None
        self._compiled: Compiled | None = None
        hosts = [adapter.host for adapter in self.adapters.values()]
        self._ends = LastTokens(model, hosts, layers_of(model), probe.tokens[0])

    def recompute(self) -> Recompute:
        """Gradient checkpointing for the layers of the base.

        Raises:
            ModelNotUsable: the base has no such layers.
        """
        if self._recompute is None:
            why = "computed again: leave out --gradient-checkpointing"
            self._recompute = Recompute(repeated_layers(self._base, self.name, why))
        return self._recompute

    def compiled(self) -> Compiled:
        """Compilation of the layers of the base.

        Raises:
            ModelNotUsable: the base has no such layers.
        """
        if self._compiled is None:
            self._compiled = Compiled(repeated_layers(self._base, self.name, "compiled: leave out --compile"))
        return self._compiled

    @property
    def small(self) -> bool:
        """Whether the base is on a CPU, and so small that a pass costs as much between tensor operations as in them."""
        return self.device.type == "cpu" and sum(weight.numel() for weight in self._base.parameters()) <= SMALL

    @contextlib.contextmanager
    def at_ends(self) -> Iterator[None]:
        """Many passes follow: a small base computes what only the last tokens need for those alone, with the same bits.

        Larger bases have so many layers that leaving out a part of the last would save nothing.
        """
        switched = any(one is not None and one.active for one in (self._recompute, self._compiled))
        if switched or not self.small:
            yield
            return
        if not self._ends.chosen:
            before = self._passed.count
            self._ends.choose(self)
            self._passed.count = before
        with self._ends.allowed():
            yield

    @property
    def network(self) -> nn.Module:
        """The base with its adapters and answer head."""
        module: nn.Module = self._base
        return module

    @property
    def forwards(self) -> int:
        """Examples passed forward since loading, for the cost table."""
        return self._passed.count

    @property
    def params(self) -> dict[str, nn.Parameter]:
        """The adapter parameters by name, in the model's order; P entries in all. Those of the head exist only after
        :meth:`prepare`, which replaces them."""
        return self._adapters.values

    @property
    def adapters(self) -> dict[str, Adapter]:
        """The linear map and the adapted layer of every adapter matrix, by its name in ``params``."""
        return self._adapters.places

    def _remarks(self) -> Iterator[str]:
        if self.targets.left_out:
            yield (
                f"{len(self.targets.left_out)} layers that lora.targets names take no adapter because text does not "
                f"pass them as linear maps, such as {self.targets.left_out[0]}."
            )

    def prepare(self, answers: Sequence[str], seed: int) -> None:
        """Read out at ``answers`` from now on, and start from fresh adapters: A ~ Kaiming-uniform(seed), B = 0.

        The draw is made on the CPU, so every device and every method starts from the same adapters (Hu et al. 2021).
        DoRA's magnitudes start at the norms of the base's weights, so any variant starts from the base's function.
        """
        ids = answer_tokens(self.tokenizer, answers, self.name, self.spec.prompt)
        check_rows(ids, answers, len(self._loaded.head.weight), self.name)
        self._set_answers(ids)
        self._base.eval()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in self._adapters.shapes.items():
            fresh = self._magnitudes.get(name, torch.zeros(shape)).clone()
            if "lora_A" in name:
                nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator)
            self._adapters.renew(name, fresh)

    def rows_of_answers(self, whole: Tensor) -> Tensor:
        """(C, ...): the rows of the answers of (V, ...), one row per token of the vocabulary."""
        return whole[list(self._answer_ids)] if len(whole) > max(self._answer_ids) else whole

    def guard(self) -> Guard:
        """The state of the model now; ``guard.restore()`` undoes what a method leaves behind in it."""
        state: list[object] = [self._adapters, self.tokenizer, self._tokens, self._base.config]
        return Guard(self._base, [*state, self], self.params.values())

    def features(self, batch: Batch, params: Params | None = None) -> Tensor:
        """(B, d) inputs of the answer head at the last position, in float32 or wider, with their graph.

        ``params`` stand in for the adapters of the same names, as in :meth:`logits`.
        """
        found: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, args: found.append(args[0]))
        try:
            self.logits(batch, params)
        finally:
            hook.remove()
        last = self._loaded.at_ends(batch, found[-1])
        return last.to(device=self.device, dtype=torch.promote_types(last.dtype, torch.float32))

    @property
    def head(self) -> nn.Module:
        """The answer head: the C rows of the output layer, in PEFT's layer where ``lora.targets`` has ``head``."""
        module: nn.Module = self._base.get_output_embeddings()
        return module

    def last_layer(self, batch: Batch) -> LastLayer:
        """What the answer head reads, and how the logits depend on what it gives; no graph of the base is kept."""
        kept: list[tuple[Tensor, Tensor]] = []

        def cut(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            kept.append((args[0], output.detach().requires_grad_()))
            return kept[-1][1]

        hook = self.head.register_forward_hook(cut)
        try:
            with torch.enable_grad():
                logits = self.logits(batch, {name: value.detach() for name, value in self.params.items()})
        finally:
            hook.remove()
        features, outputs = kept[-1]
        found = [torch.autograd.grad(one.sum(), outputs, retain_graph=True)[0] for one in logits.unbind(1)]
        slopes = torch.stack([self._loaded.at_ends(batch, one) for one in found], 1)
        wide = torch.promote_types(features.dtype, torch.float32)
        last = self._loaded.at_ends(batch, features).detach()
        return LastLayer(last.to(self.device, wide), logits.detach(), slopes.to(self.device, wide))

    def _set_answers(self, ids: tuple[int, ...]) -> None:
        """Put the answer rows of the output layer in its place, so no (B, T, vocabulary) logits are ever made."""
        self._answer_ids = ids
        rows = answer_rows(self._loaded.head, ids)
        where = device_of(rows)
        if not self.targets.head:
            follow_inputs(self._base, rows, where)
            self._base.set_output_embeddings(rows)
            return
        head = adapted_rows(rows, self.spec.lora).to(where)
        follow_inputs(self._base, head, where)
        self._base.set_output_embeddings(head)
        self._adapters = Parameters.of(self._base, head, self._adapters.shapes)
        self._magnitudes = self._adapters.magnitudes() | self._magnitudes_of_layers

    def encode(self, examples: Sequence[Example], max_length: int) -> Encoded:
        """Tokenise prompts in the form of the spec, cut on the right at ``max_length`` tokens.

        A plain prompt has the tokenizer's own BOS and no EOS; a chat, what its template writes.

        Raises:
            ValueError: the model cannot read such prompts, or would answer them differently from batch to batch.
        """
        plain = self.spec.prompt == PLAIN
        prompts = [example.prompt for example in examples]
        tokens = []
        truncated = cue_lost = 0
        for prompt, ids in zip(prompts, self._tokens(prompts), strict=True):
            truncated += len(ids) > max_length
            cue_lost += len(ids) > max_length and (not plain or ends_in_cue(prompt))
            tokens.append(tuple(ids[:max_length]))
        special = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id, 0)
        rows = len(self._base.get_input_embeddings().weight)
        pad = next(token for token in special if token is not None and token < rows)
        checks.check_readable(self.name, tokens, pad, rows, self._places, self._steady)
        form = self.spec.packing, self.spec.shared_prefix
        blanks = sum(prompt != prompt.rstrip() for prompt in prompts) if plain else 0
        return Encoded(tuple(tokens), tuple(examples), pad, self.device, truncated, cue_lost, *form, blanks)

    def check_maps(self) -> None:
        """Probe what methods that hook the adapter matrices rely on (call :meth:`prepare` first).

        Raises:
            ValueError: a matrix does not run once per forward pass with one row per token, or a parameter has none.
        """
        tokens = self._probe().tokens[0]
        pair = Encoded((tokens, tokens[: len(tokens) // 2]), (checks.PROBE, checks.PROBE), tokens[0], self.device, 0)
        batch = pair.batch([0, 1])
        checks.check_maps(
            self.spec, self.params, self.adapters, batch, lambda: self._base(**self._loaded.inputs(batch))
        )

    def _probe(self) -> Encoded:
        """A short prompt, cut to what the model can read."""
        limits = [limit for limit in (self._places, self._steady) if limit is not None]
        return self.encode([checks.PROBE], min([checks.PROBE_LENGTH, *limits]))

    def logits(self, batch: Batch, params: Params | None = None) -> Tensor:
        """(B, C) logits of the answer tokens at the last position, in float32 or wider.

        ``params`` stand in for the adapters of the same names and may carry a graph of their own (variational methods
        differentiate through them); without them the model's own adapters are used.
        """
        if not self._answer_ids:
            raise RuntimeError("Call prepare(answers, seed) before asking for logits.")
        inputs = self._loaded.inputs(batch)
        self._passed.count += len(batch)
        with self._ends.on():
            if params is None:
                out = self._base(**inputs)
            else:
                named = {self._adapters.full[name]: value for name, value in params.items()}
                with self._plain_layers():
                    out = torch.func.functional_call(self._base, named, kwargs=inputs)
        logits = self._loaded.at_ends(batch, out.logits)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @contextlib.contextmanager
    def _plain_layers(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for switched in (self._recompute, self._compiled):
                if switched is not None:
                    stack.enter_context(switched.off())
            yield

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
        modules = self._adapters.dropouts
        before = [module.training for module in modules]
        try:
            for module in modules:
                module.train(on)
            yield
        finally:
            for module, mode in zip(modules, before, strict=True):
                module.train(mode)


def load_model(
    spec: ModelSpec, path: Path | None, device: torch.device, placed: DeviceMap | None = None
) -> ChoiceModel:
    """Load base, tokenizer and adapters on ``device``; ``path`` is the folder or file of a local model.

    With ``placed`` the layers go where it says, and prompts to the device of the first of them.

    Raises:
        ModelNotUsable: it cannot be loaded, would answer wrongly, or is not what ``spec`` names; with the fix.
    """
    with opened(spec, path) as source:
        base = load_base(spec, source, device, placed)
        check_same(spec, base)
        return adapted(spec, base, device if placed is None else device_of(base.model.get_input_embeddings()))


def adapted(spec: ModelSpec, base: Base, device: torch.device) -> ChoiceModel:
    """The base, which is on ``device``, with fresh adapters. cuDNN's attention is off from now on.

    Raises:
        ModelNotUsable: it would answer wrongly.
    """
    # cuDNN's attention has NaN gradients where padding masks a whole row (seen in bfloat16 with torch 2.11 on an H100)
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        return ChoiceModel(spec, base, device)
    except ModelNotUsable:
        raise
    except ValueError as error:  # a probe that the model cannot read
        raise ModelNotUsable(str(error)) from error
