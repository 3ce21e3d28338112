"""What float32 arithmetic gives on this machine: refits can only be compared byte for byte where it is the same."""

from __future__ import annotations

import hashlib

import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention, silu


def fingerprint() -> dict[str, str]:
    """Versions of torch and transformers, and the digest of three training steps of a small attention block.

    The shapes are those of the embedded base (width 96, 4 heads), so that the same matrix kernels are chosen.
    """
    import transformers

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        generator = torch.Generator().manual_seed(9)
        weights = [
            torch.randn(*shape, generator=generator) * 0.1 for shape in ((96, 96), (96, 256), (256, 96), (96, 2))
        ]
        weights = [weight.requires_grad_() for weight in weights]
        optimizer = torch.optim.AdamW(weights, lr=1e-2, foreach=True)
        digest = hashlib.sha256()
        for _ in range(3):
            x = torch.randn(4, 40, 96, generator=generator)
            heads = (x @ weights[0]).view(4, 40, 4, 24).transpose(1, 2)
            x = x + scaled_dot_product_attention(heads, heads, heads, is_causal=True).transpose(1, 2).reshape(4, 40, 96)
            x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)
            x = x + silu(x @ weights[1]) @ weights[2]
            loss = cross_entropy(x[:, -1] @ weights[3], torch.tensor([0, 1, 1, 0]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for tensor in (loss.detach(), *(weight.detach() for weight in weights)):
                digest.update(tensor.numpy().tobytes())
    finally:
        torch.set_num_threads(threads)
    return {"torch": torch.__version__, "transformers": transformers.__version__, "digest": digest.hexdigest()}
