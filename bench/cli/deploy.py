"""Commands that use a stored posterior: `export` and `predict`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.app import RESULTS, command
from bench.cli.complete import keys
from bench.cli.options import RUNS, DeviceOptions, Plugins, Runs
from bench.cli.paths import check_output_file, check_output_folder, write_output
from bench.cli.terminal import say

StoredKey = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="Key of a fit or evaluation, or its first four or more digits.",
        show_default=False,
        autocompletion=keys,
    ),
]
Base = Annotated[
    Path | None, typer.Option("--model", metavar="PATH", help="The base, where it is a local folder or file.")
]

Answers = Annotated[
    str | None, typer.Option(metavar="A,B", help="Answers of a fit that was made from Python (bench.api).")
]


def _words(answers: str | None) -> list[str] | None:
    return None if answers is None else [word.strip() for word in answers.split(",")]


@command(RESULTS)
def export(
    key: StoredKey,
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder to write to.", show_default=False)],
    draws: Annotated[int, typer.Option(metavar="N", help="Also write N draws, an adapter each.")] = 0,
    temperature: Annotated[
        float | None,
        typer.Option(metavar="T", help="Divide logits by T; default: the temperature that the method fitted, else 1."),
    ] = None,
    answers: Answers = None,
    model: Base = None,
    plugins: Plugins = [],  # noqa: B006  (typer reads it, and makes a new list for each call)
    runs: Runs = RUNS,
) -> None:
    """Write a posterior mean, and draws, as PEFT adapters with a model card."""
    check_output_folder(out, "--out")
    from bench.data.file_task import load_extension
    from bench.data.given import recall
    from bench.run.exports.export import export as write
    from bench.run.stored import open_result

    for plugin in plugins:
        load_extension(plugin)
    result = open_result(runs, key)
    recall(result.fit.data, key, _words(answers))
    for line in write(result, out, path=model, draws=draws, temperature=temperature):
        say(line)


@command(RESULTS)
def predict(
    key: StoredKey,
    file: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Questions (JSON Lines, CSV, TSV or parquet): a column 'prompt', or rows as the task has them.",
            show_default=False,
        ),
    ],
    device: DeviceOptions,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write here.", show_default="standard output")
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Questions per forward pass.")] = 32,
    answers: Answers = None,
    model: Base = None,
    plugins: Plugins = [],  # noqa: B006  (typer reads it, and makes a new list for each call)
    runs: Runs = RUNS,
) -> None:
    """Answer questions with a stored posterior: a line of JSON each, with the probability of every answer."""
    if not 1 <= batch_size <= 4096:
        raise ValueError(f"--batch-size {batch_size}: use 1 to 4096.")
    if out is not None:
        check_output_file(out, "--out")
    from bench.api import load_posterior
    from bench.api import predict as answer
    from bench.run.execution import Execution
    from bench.run.predict import read_questions
    from bench.run.worker import make_runner
    from bench.store.store import Store
    from bench.task import get_task

    make_runner(Store(runs), Execution(device=device.device, threads=device.threads, plugins=tuple(plugins)))
    fitted = load_posterior(
        runs, key, model=model, answers=_words(answers), device=device.device, device_map=device.placed
    )
    result = fitted.result
    scored = result.run.data if result.run is not None else result.fit.data
    questions = read_questions(file, get_task(scored.task))
    found = answer(fitted, questions, batch_size=batch_size)
    lines = [json.dumps({"id": q.id, **row}) for q, row in zip(questions, found.rows(), strict=True)]
    if out is None:
        say("\n".join(lines))
        return
    write_output(out, "\n".join(lines) + "\n")
    print(f"wrote {out}: {len(lines)} answers", file=sys.stderr)
