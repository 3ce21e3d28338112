"""Attention of packed prompts, prompt by prompt: its cost grows with the sum of n_i^2, not with (sum of n_i)^2.

transformers passes keyword arguments that it does not know on to the attention function. That is how the lengths of the
prompts get there, in a second pass of a checkpointed layer too. The mask of the whole row, which keeps prompts apart
and holds the windows of models that have some, is cut into its blocks on the diagonal: all else in it is masked.

Prompts that share their first S tokens have these in the row once, at its start, and their queries from S on read the
keys of both. The longest prompt is whole there, so the beginning of its block is the mask of each of the others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

NAME, LENGTHS, SHARED = "sdpa_by_prompt", "prompt_lengths", "shared_tokens"


def attend_by_prompt(model: Any, accepts: frozenset[str]) -> None:
    """Switch a model of transformers from SDPA to :func:`by_prompt`; nothing where that cannot be, or it has its own.

    ``accepts``: names of the arguments of its forward pass.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    uses_sdpa = model.config._attn_implementation == "sdpa"
    if not (uses_sdpa and "kwargs" in accepts and model._can_set_attn_implementation()):
        return
    AttentionInterface.register(NAME, by_prompt)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def by_prompt(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    prompt_lengths: Sequence[int] | None = None,
    shared_tokens: int = 0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of (1, H, N, d) queries within each prompt of a row of N tokens; plain SDPA without lengths.

    The row is laid out as :class:`bench.data.packing.Packed` says.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if prompt_lengths is None:
        whole, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return whole, None
    if shared_tokens:
        return _sharing(module, query, key, value, attention_mask, prompt_lengths, shared_tokens, options), None
    found, start = [], 0
    for length in prompt_lengths:
        own = slice(start, start + length)
        mask = None if attention_mask is None else attention_mask[..., own, own]
        inner = (every[:, :, own] for every in (query, key, value))
        found.append(sdpa_attention_forward(module, *inner, mask, **options)[0])
        start = own.stop
    return torch.cat(found, dim=1), None


def _sharing(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    lengths: Sequence[int],
    shared: int,
    options: dict[str, Any],
) -> Tensor:
    """Attention of prompts that share their first tokens; those of one length, which come together, in one call."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    longest = lengths[0]
    if attention_mask is None:
        attention_mask = torch.ones(1, 1, longest, longest, dtype=torch.bool, device=query.device).tril()
    mask = attention_mask[..., :longest, :longest]
    first = (every[:, :, :longest] for every in (query, key, value))
    found, start = [sdpa_attention_forward(module, *first, mask, **options)[0]], longest
    for length, alike in itertools.groupby(lengths[1:]):
        shape = (len(list(alike)), length - shared)
        own = slice(start, start + math.prod(shape))
        queries, keys, values = (
            every[0, :, own].reshape(every.shape[1], *shape, every.shape[3]).transpose(0, 1)
            for every in (query, key, value)
        )
        keys, values = (
            torch.cat([every[:, :, :shared].expand(shape[0], -1, -1, -1), rest], 2)
            for every, rest in ((key, keys), (value, values))
        )
        each = sdpa_attention_forward(module, queries, keys, values, mask[..., shared:length, :length], **options)[0]
        found.append(each.flatten(0, 1).unsqueeze(0))
        start = own.stop
    return torch.cat(found, dim=1)
