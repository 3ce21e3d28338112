"""Attention of packed prompts, prompt by prompt: its cost grows with the sum of n_i^2, not with (sum of n_i)^2.

transformers passes keyword arguments that it does not know on to the attention function. That is how the lengths of the
prompts get there, in a second pass of a checkpointed layer too. The mask of the whole row, which keeps prompts apart
and holds the windows of models that have some, is cut into its blocks on the diagonal: all else in it is masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

NAME, LENGTHS = "sdpa_by_prompt", "prompt_lengths"


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
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of (1, H, N, d) queries within each prompt of N tokens in all; plain SDPA without lengths."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if prompt_lengths is None:
        whole, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return whole, None
    found, start = [], 0
    for length in prompt_lengths:
        rows = slice(start, start + length)
        mask = None if attention_mask is None else attention_mask[..., rows, rows]
        parts = (every[:, :, rows] for every in (query, key, value))
        found.append(sdpa_attention_forward(module, *parts, mask, **options)[0])
        start += length
    return torch.cat(found, dim=1), None
