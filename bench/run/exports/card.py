"""The model card of an export: Markdown with the header that the hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bench.method import get_method, is_method
from bench.run.exports.offer import Offer, departure
from bench.run.stored import Result
from bench.specs import key, to_json
from bench.store.records import RunRecord, read_records
from bench.task import get_task, is_task

_CHAT = 'text = text.join(about["frame"])  # the tokenizer\'s chat template, as the suite fills it in'
_STRIPPED = _CHAT.replace("text.join", "text.strip().join")
_LOGITS = '    logits = model(**prompt).logits[0, -1, list(about["answers"].values())]'
_LOAD_DRAWS = [
    'names = [f"{number:03}" for number in range(about["draws"])]',
    'model = PeftModel.from_pretrained(base, "FOLDER/draws/000", adapter_name="000")',
    "for name in names[1:]:",
    '    model.load_adapter(f"FOLDER/draws/{name}", name)',
    "model.eval()",
]
_AVERAGE = [
    "average = 0",
    "for name in names:",
    "    model.set_adapter(name)",
    "    with torch.no_grad():",
    f"    {_LOGITS}",
    '    average += (logits / about["temperature"]).softmax(-1) / len(names)',
]


def card(result: Result, offer: Offer, about: Mapping[str, Any]) -> str:
    """What the adapters are, how to predict with them, what was measured, and whose predictive this is not.

    ``about``: the content of ``prediction.json``.
    """
    base = about["base"]
    fit, task = result.fit, get_task(result.fit.data.task)
    lines = [
        "---",
        f"base_model: {base}",
        "library_name: peft",
        "pipeline_tag: text-classification",
        "tags: [lora, calibration, bayesian]",
        "---",
        "",
        f"# {get_method(fit.method).title}, trained on {task.title}",
        "",
        *_recipe(result, base, offer),
        "",
        "## Use",
        "",
        "```python",
        *_code(offer, about),
        "```",
        "",
        *_metrics(result, offer),
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


def _recipe(result: Result, base: str, offer: Offer) -> list[str]:
    """What the adapters are, and how they predict; and whether the method of the result predicts otherwise."""
    fit, task, recipe = result.fit, get_task(result.fit.data.task), offer.recipe
    answers = ", ".join(f'"{answer}"' for answer in task.answers)
    divided = " / temperature" if recipe.temperature != 1 else ""
    lines = [
        f"LoRA adapters (rank {fit.model.lora.r}) of `{base}`, trained on {task.title} with seed {fit.seed}. The base "
        f"was in {fit.model.dtype}, quantization {fit.model.quantization}. The prediction is a distribution over the "
        f"answers {answers}: the logits of their tokens at the end of the prompt{divided}, through a softmax."
    ]
    if offer.draws:
        count = f"{len(offer.draws)} draw{'' if len(offer.draws) == 1 else 's'}"
        lines.append(f"\n`draws/` holds {count} of the posterior: average the probabilities that they give.")
    if (divisor := recipe.temperature_of_average) != 1:
        formula = f"softmax(log(mean over draws of softmax(logits{divided})) / T)"
        mean = "" if offer.draws else " Here the mean adapter takes the place of the draws."
        lines.append(
            f"\nThe temperature T = {divisor:.6g} (`temperature_of_average` in `prediction.json`) is that of the "
            f"averaged probabilities, not of the logits: {formula}.{mean}"
        )
    if why := departure(result, offer):
        what = "average over these draws" if offer.draws else "mean adapter alone"
        whose = "that was evaluated" if result.run else "of this method"
        lines.append(f"\n**The {what} is not the predictive {whose}.** {type(result.method).title} {why}.")
    return lines


def _code(offer: Offer, about: Mapping[str, Any]) -> list[str]:
    """Python that answers one prompt with transformers and PEFT."""
    chat = about["frame"] is not None
    source, tokens = 'about["base"]', 'tokenizer(text, return_tensors="pt")'
    if about["base"].endswith(".gguf"):
        source = 'os.path.dirname(about["base"]), gguf_file=os.path.basename(about["base"])'
    elif about["revision"]:
        source += ', revision=about["revision"]'
    if chat:  # the template has the special tokens already
        tokens = 'tokenizer(text, return_tensors="pt", add_special_tokens=False)'
    elif about["closing_tokens"]:
        tokens = f'{{name: row[:, : -about["closing_tokens"]] for name, row in {tokens}.items()}}'
    found = '(logits / about["temperature"]).softmax(-1)'
    if offer.draws:
        load, predict, found = _LOAD_DRAWS, _AVERAGE, "average"
    else:
        load, predict = ['model = PeftModel.from_pretrained(base, "FOLDER").eval()'], ["with torch.no_grad():", _LOGITS]
    if offer.recipe.temperature_of_average != 1:
        found = f'({found}.log() / about["temperature_of_average"]).softmax(-1)'
    return [
        f"import json, {'os, ' if 'os.' in source else ''}torch",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'about = json.load(open("FOLDER/prediction.json"))',
        f"tokenizer = AutoTokenizer.from_pretrained({source})",
        f"base = AutoModelForCausalLM.from_pretrained({source}, dtype=torch.float32)",
        *load,
        'text = "... Answer:"',
        *([_STRIPPED if about["strips"] else _CHAT] if chat else []),
        f"prompt = {tokens}",
        *predict,
        f'print(dict(zip(about["answers"], {found}.tolist())))',
    ]


def _metrics(result: Result, offer: Offer) -> list[str]:
    """A table with a row for each stored evaluation of the fit, and which of them measured another predictive."""
    records = [r for r in read_records(result.store.root)[0] if key(r.spec.fit) == key(result.fit)]
    found = sorted(records, key=lambda record: (record.spec.data.task, record.spec.method, record.key))
    if not found:
        return []
    names = list(dict.fromkeys(name for record in found for name in record.metrics))

    def show(record: RunRecord, name: str) -> str:
        return f"{record.metrics[name]:.4f}" if name in record.metrics else ""

    rows = [
        [r.spec.method, _titled(r.spec.data.task), r.spec.split, r.key, *(show(r, name) for name in names)]
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
        *_departures(result, offer, found),
    ]


def _titled(task: str) -> str:
    """A task's title, or its name where the plug-in or file that has it was not loaded."""
    return get_task(task).title if is_task(task) else task


def _departures(result: Result, offer: Offer, records: Sequence[RunRecord]) -> list[str]:
    """A list of the rows that measured another predictive than that of the card."""
    lines = []
    for record in records:
        one = Result(result.store, record.spec.fit, record.spec)
        known = is_method(record.spec.method)
        why = departure(one, offer) if known else "is a method of a plug-in that was not loaded for this card"
        if why:
            lines.append(f"* `{record.key}`: {record.spec.method} {why}.")
    return ["These rows measured another predictive than that of the code above:", "", *lines, ""] if lines else []
