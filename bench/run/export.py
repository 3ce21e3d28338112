"""``bench export``: a stored posterior as PEFT adapters with a model card, for use without this suite.

OUT/adapter_config.json, adapter_model.safetensors   the posterior mean
OUT/draws/00/ ...                                    draws, an adapter each
OUT/prediction.json                                  answers and their tokens, temperature, prompt length, spec
OUT/README.md                                        model card
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

import torch

from bench.method import PredictJob, get_method
from bench.model.export import answer_ids, base_place, write_adapter
from bench.model.prompts import CHAT
from bench.posterior import Members, Params
from bench.run.stored import Result
from bench.specs import key, to_json
from bench.store.files import publish_folder
from bench.store.records import RunRecord, read_records
from bench.task import get_task

MOST_DRAWS = 1000
_CHAT = (
    'text = tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, '
    "add_generation_prompt=True, enable_thinking=False)"
)


def export(
    result: Result, out: Path, *, path: Path | None = None, draws: int = 0, temperature: float | None = None
) -> list[str]:
    """Write ``out``, which must not exist, all of it or nothing; returns a sentence for each part.

    Args:
        result: the fit, or an evaluation of it, whose method then makes the draws.
        path: the folder of a local base.
        draws: number of draws to write besides the mean.
        temperature: what logits are to be divided by; by default that of the posterior, else 1.

    Raises:
        FileExistsError: ``out`` is there.
        ValueError: the posterior has no mean, or not so many draws; or a number is out of range.
    """
    if out.exists():
        raise FileExistsError(f"--out {out} exists: name a new folder.")
    if not 0 <= draws <= MOST_DRAWS:
        raise ValueError(f"--draws {draws}: use 0 to {MOST_DRAWS}.")
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"--temperature {temperature}: use a number above 0.")
    fit, posterior = result.fit, result.posterior
    place, answers = base_place(fit.model, path), get_task(fit.data.task).answers
    divisor = temperature if temperature is not None else float(getattr(posterior, "temperature", 1.0))
    try:
        mean: Params | None = posterior.mean
    except TypeError as error:
        if not draws:
            raise ValueError(f"{error} Export draws of it with --draws N.") from error
        mean = None
    if mean is not None and not mean:
        raise ValueError(f"The posterior of {result.key} holds no adapters: '{fit.method}' leaves the base as it is.")
    drawn = list(_drawn(result, draws)) if draws else []
    about = {
        "key": result.key,
        "base": str(place),
        "answers": answer_ids(fit.model, path, answers),
        "temperature": divisor,
        "max_length": fit.train.max_length,
        "prompt": fit.model.prompt,
        "draws": len(drawn),
        "spec": to_json(result.run or fit),
    }

    def write(folder: Path) -> None:
        if mean is not None:
            write_adapter(folder, mean, fit.model, place, answers)
        for number, params in enumerate(drawn):
            inner = folder / "draws" / f"{number:03}"
            inner.mkdir(parents=True)
            write_adapter(inner, params, fit.model, place, answers)
        (folder / "prediction.json").write_text(json.dumps(about, indent=1) + "\n")
        (folder / "README.md").write_text(card(result, str(place), divisor, len(drawn), mean is not None))

    publish_folder(out, write)
    parts = [f"the mean to {out}"] if mean is not None else []
    parts += [f"{len(drawn)} draws to {out / 'draws'}"] if drawn else []
    return [f"wrote {part}" for part in parts]


def _drawn(result: Result, count: int) -> Iterator[Params]:
    """The first ``count`` adapter values that the method predicts with; of a fit, draws of its posterior."""
    posterior, generator = result.posterior, torch.Generator().manual_seed(result.seed)
    values: Iterable[Params]
    if result.run is None:
        values = posterior if isinstance(posterior, Members) else posterior.draws(count, generator)
        name = f"a posterior of kind '{posterior.kind}'"
    else:
        method = result.method
        options = method.options("fit") | method.options("predict")
        if "draws" in options:
            method = get_method(method.name).make({**options, "draws": count})
        values = method.draw(_job(result, generator))
        name = f"'{method.name}'"
    found = list(itertools.islice(values, count))
    if len(found) < count:
        raise ValueError(f"--draws {count}: {name} has {len(found)}.")
    yield from found


def _job(result: Result, generator: torch.Generator) -> PredictJob:
    """A job without examples, for methods that draw adapter values."""
    return PredictJob(
        posterior=result.posterior,
        examples=(),
        answers=get_task(result.fit.data.task).answers,
        generator=generator,
        batch_size=1,
        load=_no_model,
        max_length=result.fit.train.max_length,
    )


def _no_model() -> NoReturn:
    raise ValueError("This method draws with the model at hand, which an export does not load: leave --draws out.")


def card(result: Result, base: str, temperature: float, draws: int, has_mean: bool) -> str:
    """The model card: Markdown with the header that the hub reads."""
    fit, task = result.fit, get_task(result.fit.data.task)
    title = get_method(fit.method).title
    records = [r for r in read_records(result.store.root)[0] if key(r.spec.fit) == key(fit)]
    answers = ", ".join(f'"{answer}"' for answer in task.answers)
    folder = "FOLDER" if has_mean else "FOLDER/draws/000"
    divided = " / temperature" if temperature != 1 else ""
    lines = [
        "---",
        f"base_model: {base}",
        "library_name: peft",
        "pipeline_tag: text-classification",
        "tags: [lora, calibration, bayesian]",
        "---",
        "",
        f"# {title}, trained on {task.title}",
        "",
        f"LoRA adapters (rank {fit.model.lora.r}) of `{base}`, trained on {task.title} with seed {fit.seed}. The base "
        f"was in {fit.model.dtype}, quantization {fit.model.quantization}. The prediction is a distribution over the "
        f"answers {answers}: the logits of their tokens at the end of the prompt{divided}, through a softmax.",
        *(
            [f"\n`draws/` holds {draws} draws of the posterior: average the probabilities that they give."]
            if draws
            else []
        ),
        "",
        "## Use",
        "",
        "```python",
        "import json, torch",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'about = json.load(open("{"FOLDER"}/prediction.json"))',
        'tokenizer = AutoTokenizer.from_pretrained(about["base"])',
        'base = AutoModelForCausalLM.from_pretrained(about["base"], dtype=torch.float32)',
        f'model = PeftModel.from_pretrained(base, "{folder}").eval()',
        'text = "... Answer:"',
        *([_CHAT] if fit.model.prompt == CHAT else []),
        'prompt = tokenizer(text, return_tensors="pt")',
        "with torch.no_grad():",
        '    logits = model(**prompt).logits[0, -1, list(about["answers"].values())]',
        'print(dict(zip(about["answers"], (logits / about["temperature"]).softmax(-1).tolist())))',
        "```",
        "",
        *_metrics(records),
        "## Settings",
        "",
        "```json",
        json.dumps(to_json(fit), indent=1),
        "```",
        "",
        "## Licence",
        "",
        f"Trained on {task.title} ({task.licence}). The licence of the base, `{base}`, holds for these adapters, too.",
        "",
    ]
    return "\n".join(lines)


def _metrics(records: Iterable[RunRecord]) -> list[str]:
    """A table with a row for each stored evaluation of the fit."""
    found = sorted(records, key=lambda record: (record.spec.data.task, record.spec.method, record.key))
    if not found:
        return []
    names = list(dict.fromkeys(name for record in found for name in record.metrics))

    def show(record: RunRecord, name: str) -> str:
        return f"{record.metrics[name]:.4f}" if name in record.metrics else ""

    rows = [
        [r.spec.method, get_task(r.spec.data.task).title, r.spec.split, r.key, *(show(r, name) for name in names)]
        for r in found
    ]
    header = ["method", "task", "split", "key", *names]
    return [
        "## Evaluations",
        "",
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
