"""Messages of the libraries while a model is loaded, and requests of its files that are not met, as sentences.

Nothing that is silenced goes unread: a remark is refused, shown with the results, or written to the log.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from bench.errors import ModelNotUsable
from bench.model.formats import Source

LOG = logging.getLogger(__name__)
SHOWN = 6  # names in a sentence
GENERIC = {"PreTrainedTokenizer", "TokenizersBackend", "SentencePieceBackend", "PythonBackend"}
COVERED = ("LOAD REPORT", "`tokenizer_class` is")  # said in our own words below
HARMLESS = ("fast path is not available", "is not the fastest", "Falling back to", "torch_dtype` is deprecated")


@contextlib.contextmanager
def collected() -> Iterator[list[str]]:
    """Progress bars of transformers are off inside, and its warnings go to the list instead of the screen."""
    from transformers.utils import logging as transformers_logging

    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(" ".join(record.getMessage().split()))

    logger = logging.getLogger("transformers")
    keep, level = Keep(logging.WARNING), logger.level
    handlers, propagate = logger.handlers[:], logger.propagate
    transformers_logging.disable_progress_bar()
    logger.handlers[:], logger.propagate = [keep], False
    if level != logging.WARNING:  # setting a level makes every logger of the process forget which levels it shows
        logger.setLevel(logging.WARNING)
    try:
        yield found
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate
        if logger.level != level:
            logger.setLevel(level)


def worth_showing(messages: Sequence[str]) -> list[str]:
    """The messages that may concern the numbers; the others go to the log."""
    shown = []
    for message in dict.fromkeys(messages):
        if any(part in message for part in COVERED):
            continue
        if any(part in message for part in HARMLESS):
            LOG.info("transformers: %s", message)
            continue
        shown.append(f"transformers says: {message[:300]}")
    return shown


def refuse_lacking(source: Source, lacking: Collection[str]) -> None:
    """Refuse a base whose files lack some of the model's weights.

    Raises:
        ModelNotUsable: they do.
    """
    if lacking:
        raise ModelNotUsable(
            f"The files of {source.name} lack {len(lacking)} of the model's weights (or have them in another shape), "
            f"such as {min(lacking)}, and random ones would stand in for them: use a complete causal language model."
        )


def check_loaded(source: Source, report: Mapping[str, Any]) -> list[str]:
    """Read transformers' report on the weights: refuse a base with made-up ones, name those that are left unused.

    Raises:
        ModelNotUsable: weights are missing from the files, or have another shape there.
    """
    refuse_lacking(source, {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    if report.get("error_msgs"):
        raise ModelNotUsable(f"{source.name} cannot be loaded ({report['error_msgs'][0]}).")
    unused = sorted(report["unexpected_keys"])
    if not unused:
        return []
    return [
        f"The files of the base hold {len(unused)} weights that the model, as configured, does not use: "
        f"{_some(unused)}. If they belong to it, correct config.json."
    ]


def check_weights(source: Source, model: nn.Module) -> list[str]:
    """Name weights that cannot be right: refuse NaN and infinity, warn of matrices that are zero throughout.

    Raises:
        ModelNotUsable: a weight is not finite.
    """
    zero = []
    for name, weight in model.named_parameters():
        if not weight.is_floating_point() or weight.is_meta or not weight.numel():
            continue
        size = float(torch.linalg.vector_norm(weight.detach(), ord=1, dtype=torch.float32))
        if not size < float("inf"):
            narrow = weight.dtype == torch.float16
            raise ModelNotUsable(
                f"The weight {name} of {source.name} has values that are not finite"
                + (" in float16: use --dtype bfloat16 or float32" if narrow else "")
                + f"{', unless its' if narrow else ': its'} files are damaged."
            )
        if size == 0 and weight.ndim > 1:
            zero.append(name)
    if not zero:
        return []
    return [f"{len(zero)} weight matrices of the base are zero throughout: {_some(zero)}. Are the files whole?"]


def check_tokenizer(source: Source, tokenizer: Any, declared: str | None) -> list[str]:
    """Warn of a BOS that the files ask for and prompts lack, and of another tokenizer class than they name."""
    found = []
    ids = tokenizer("Answer:")["input_ids"]
    if source.asks_bos and tokenizer.bos_token_id is not None and ids[:1] != [tokenizer.bos_token_id]:
        found.append(
            f"The files of the base ask for a BOS ('{tokenizer.bos_token}') before every text, but its tokenizer "
            "puts none there, so prompts start without it. Correct tokenizer.json if the model was trained with one."
        )
    known = {_bare(parent.__name__) for parent in type(tokenizer).__mro__}
    if declared and _bare(declared) not in known | GENERIC:
        found.append(
            f"The base names the tokenizer class {declared}, and transformers loads {type(tokenizer).__name__} "
            "instead: check that its tokens are right."
        )
    return found


def _bare(name: str) -> str:
    return re.sub("Fast$", "", name)


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
