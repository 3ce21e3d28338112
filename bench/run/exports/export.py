"""``bench export``: a stored posterior as PEFT adapters with a model card, for use without this suite.

OUT/adapter_config.json, adapter_model.safetensors   the posterior mean
OUT/draws/000/ ...                                   draws, an adapter each
OUT/prediction.json                                  answers and their tokens, temperatures, prompt length, spec
OUT/README.md                                        model card
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from bench.model.export import base_place, check_base, read_out, write_adapter
from bench.run.exports.card import card
from bench.run.exports.offer import Offer, make_offer
from bench.run.stored import Result
from bench.specs import to_json
from bench.store.files import publish_folder
from bench.task import get_task

MOST_DRAWS = 1000


def export(
    result: Result, out: Path, *, path: Path | None = None, draws: int = 0, temperature: float | None = None
) -> list[str]:
    """Write ``out``, which must not exist, all of it or nothing; returns a sentence for each part.

    Args:
        result: the fit, or an evaluation of it, whose method then makes the draws.
        path: the folder of a local base.
        draws: number of draws to write besides the mean.
        temperature: what logits are to be divided by; by default what the method fitted, else 1.

    Raises:
        FileExistsError: ``out`` is there.
        ValueError: the posterior has no mean, or not so many draws; or a number is out of range.
    """
    if out.exists():
        raise FileExistsError(f"--out {out} exists: name a new folder.")
    _check(draws, temperature)
    fit = result.fit
    place, answers = base_place(fit.model, path), get_task(fit.data.task).answers
    check_base(fit.model, path)
    offer = make_offer(result, draws, temperature)
    about = _about(result, path, str(place), offer)

    def write(folder: Path) -> None:
        if offer.mean is not None:
            write_adapter(folder, offer.mean, fit.model, place, answers)
        for number, params in enumerate(offer.draws):
            inner = folder / "draws" / f"{number:03}"
            inner.mkdir(parents=True)
            write_adapter(inner, params, fit.model, place, answers)
        (folder / "prediction.json").write_text(json.dumps(about, indent=1) + "\n")
        (folder / "README.md").write_text(card(result, offer, about))

    publish_folder(out, write)
    parts = [f"the mean to {out}"] if offer.mean is not None else []
    parts += [f"{draws} draws to {out / 'draws'}"] if draws else []
    return [f"wrote {part}" for part in parts]


def _check(draws: int, temperature: float | None) -> None:
    if not 0 <= draws <= MOST_DRAWS:
        raise ValueError(f"--draws {draws}: use 0 to {MOST_DRAWS}.")
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"--temperature {temperature}: use a number above 0.")


def _about(result: Result, path: Path | None, base: str, offer: Offer) -> dict[str, Any]:
    """The content of ``prediction.json``."""
    fit = result.fit
    return {
        "key": result.key,
        "base": base,
        "revision": fit.model.revision if path is None and fit.model.id != "embedded" else None,
        **read_out(fit.model, path, get_task(fit.data.task).answers),
        "temperature": offer.recipe.temperature,
        "temperature_of_average": offer.recipe.temperature_of_average,
        "max_length": fit.train.max_length,
        "prompt": fit.model.prompt,
        "draws": len(offer.draws),
        "spec": to_json(result.run or fit),
    }
