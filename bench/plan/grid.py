"""Grid files: which methods, tasks and seeds, under which settings. TOML in, run specs out.

protocol = "clean"                 # paper | clean
methods = ["adamw", "ivon"]
tasks = ["notes_two"]
seeds = [1, 2]
plugins = ["my_pkg.my_module"]     # optional
eval_every = 500                   # optional: steps between mid-run evaluations

[model]                            # optional: id (hub name, folder or embedded), revision, quantization, dtype
[set]                              # settings, see bench.plan.settings
[variants.tuned]                   # optional: labelled settings that win over [set], its per-task ones too;
include = "chosen.toml"            # optional: a file of more of them, as `bench tune` writes it
methods = ["ivon"]                 # optional: the methods this variant has, where not all
sweep = false                      # optional: leave the sweeps out
[eval]                             # optional: training task -> tasks to evaluate on besides, out of distribution
notes_two = ["my_task"]
[sweep.ivon]                       # optional: prediction-time hyperparameters to vary
tau = [0, 0.5, 1]
[tune.ivon]                        # optional: what `bench tune` tries
lr = [0.1, 0.3]
[slurm]                            # optional: settings of a launcher, see bench.launch.backends
partition = "gpu"
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.data.protocol import PROTOCOLS
from bench.data.splits import DataSource
from bench.errors import near_miss
from bench.launch.launcher import get_launcher, launcher_names
from bench.method import get_method, method_names
from bench.model.identity import resolve_model
from bench.plan.runs import families, plan_run
from bench.plan.settings import Settings, check_settings, laid_over, merge, read_toml, table_of
from bench.registry import load_plugin
from bench.specs import Family, ModelSpec, RunSpec, build, cast
from bench.task import get_task

KEYS = (
    "protocol", "methods", "tasks", "seeds", "plugins", "eval_every", "data_dir", "allow_partial_data",
    "model", "set", "variants", "eval", "sweep", "tune",
)  # fmt: skip
VARIANT_KEYS = ("include", "methods", "sweep")
MODEL_KEYS = ("id", "revision", "quantization", "dtype")
TUNE_KEYS = ("holdout", "seeds", "criterion")
CRITERIA = ("nll", "brier", "ece")  # lower is better


@dataclasses.dataclass(frozen=True)
class Variant:
    """Settings under a label; for all methods of the grid unless some are named, with the grid's sweeps unless not."""

    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    methods: tuple[str, ...] | None = None
    sweep: bool = True


@dataclasses.dataclass(frozen=True)
class Grid:
    """A checked grid."""

    name: str
    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    protocol: str = "paper"
    plugins: tuple[str, ...] = ()
    eval_every: int = 0
    source: DataSource = dataclasses.field(default_factory=DataSource)
    model: ModelSpec = dataclasses.field(default_factory=ModelSpec)
    model_path: Path | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    variants: Mapping[str, Variant] = dataclasses.field(default_factory=lambda: {"": Variant()})
    evals: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    sweep: Mapping[str, Mapping[str, list[Any]]] = dataclasses.field(default_factory=dict)
    tune: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    launchers: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def runs(self) -> list[RunSpec]:
        """All run specs: every method, task, seed and variant, on its own task and on others, then the sweeps.

        Raises:
            LookupError, ValueError: something is misspelt or does not fit, before anything is loaded.
        """
        planned = []
        for label, task, seed, method in itertools.product(self.variants, self.tasks, self.seeds, self.methods):
            variant = self.variants[label]
            if variant.methods is not None and method not in variant.methods:
                continue
            settings = merge(self.settings, variant.settings)
            run = self._plan(method, task, seed, settings, label, "result")
            planned.append(run)
            for other in self.evals.get(task, ()):
                planned.append(self._plan(method, task, seed, settings, label, "result", other))
            for name, values in self.sweep.get(method, {}).items() if variant.sweep else ():
                for value in values:
                    swept = merge(settings, laid_over({method: {name: value}}))
                    point = self._plan(method, task, seed, swept, label, "sweep")
                    if point.options != run.options:
                        planned.append(point)
        return planned

    def families(self) -> list[Family]:
        """The units of work."""
        return families(self.runs())

    def _plan(
        self,
        method: str,
        task: str,
        seed: int,
        settings: Settings,
        variant: str,
        purpose: str,
        eval_task: str | None = None,
    ) -> RunSpec:
        return plan_run(
            method,
            task,
            seed,
            settings=settings,
            model=self.model,
            source=self.source,
            protocol=self.protocol,
            variant=variant,
            purpose=purpose,
            eval_task=eval_task,
        )


def read_grid(
    file: Path,
    *,
    data_dir: Path | None = None,
    allow_partial: bool = False,
    model: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    plugins: tuple[str, ...] = (),
    with_variants: bool = True,
) -> Grid:
    """The grid of a file, with what the command line says laid over it; every name is checked.

    Without ``with_variants`` the ``[variants]`` table is left out: `bench tune` has yet to write what it includes.

    Raises:
        LookupError, ValueError, FileNotFoundError: what is wrong, and the near miss, before anything is loaded.
    """
    content = read_toml(file)
    _known(content, (*KEYS, *launcher_names()), file.name)
    for name in ("model", "set", "variants", "eval", "sweep", "tune", *launcher_names()):
        table_of(content.get(name, {}), name)
    launchers = {name: content[name] for name in launcher_names() if name in content}
    for name, table in launchers.items():
        get_launcher(name).check(table)
    for plugin in (*_strings(content.get("plugins", []), "plugins"), *plugins):
        load_plugin(plugin)
    for needed in ("methods", "tasks", "seeds"):
        if not content.get(needed):
            raise ValueError(f"{file.name} names no {needed}: add `{needed} = [...]`.")
    methods, tasks = _strings(content["methods"], "methods"), _strings(content["tasks"], "tasks")
    for method in methods:
        get_method(method)
    for task in tasks:
        get_task(task)
    protocol = str(content.get("protocol", "paper"))
    if protocol not in PROTOCOLS:
        raise LookupError(f"There is no protocol '{protocol}'.{near_miss(protocol, PROTOCOLS)}")
    settings = merge(content.get("set", {}), overrides or {})
    variants = _variants(content.get("variants", {}) if with_variants else {}, file, methods)
    for variant in variants.values():
        check_settings(merge(settings, variant.settings))
    variants = {
        name: dataclasses.replace(variant, settings=laid_over(variant.settings)) for name, variant in variants.items()
    }
    evals = {task: _strings(others, f"eval.{task}") for task, others in content.get("eval", {}).items()}
    for task in evals:
        if task not in tasks:
            raise LookupError(f"[eval] names '{task}', which the grid does not train on.{near_miss(task, tasks)}")
    sweep, tune = content.get("sweep", {}), content.get("tune", {})
    check_options(sweep, "sweep", "predict", methods)
    tuned = {name: value for name, value in tune.items() if isinstance(value, Mapping)}
    _known({name: value for name, value in tune.items() if name not in tuned}, TUNE_KEYS, "[tune]")
    seeds = seed_list(content["seeds"], "seeds")
    judging(tune, seeds)
    check_options(tuned, "tune", "", [*methods, *_bases(methods)])
    eval_every = cast(content.get("eval_every", 0), int, "eval_every")
    if eval_every < 0:
        raise ValueError(f"eval_every is {eval_every}: give a number of steps, or 0 for no evaluation in mid-run.")
    chosen = choose_model(_model_table(content.get("model", {}), model or {}), file.parent)
    partial = cast(content.get("allow_partial_data", False), bool, "allow_partial_data")
    folder = data_dir or (file.parent / _path(content["data_dir"], "data_dir") if "data_dir" in content else None)
    return Grid(
        name=file.stem,
        methods=methods,
        tasks=tasks,
        seeds=seeds,
        protocol=protocol,
        plugins=(*_strings(content.get("plugins", []), "plugins"), *plugins),
        eval_every=eval_every,
        source=DataSource(folder, allow_partial or partial),
        model=chosen[0],
        model_path=chosen[1],
        settings=settings,
        variants=variants,
        evals=evals,
        sweep=sweep,
        tune=tune,
        launchers=launchers,
    )


def _model_table(table: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A ``[model]`` table with what the command line says laid over it; another model has no use for its revision."""
    dropped = ("revision",) if "id" in overrides else ()
    return {**{name: value for name, value in table.items() if name not in dropped}, **overrides}


def _known(table: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for name in table:
        if name not in names:
            raise LookupError(f"{where} has no key '{name}'.{near_miss(name, names)}")


def seed_list(values: Any, name: str) -> tuple[int, ...]:
    """``values`` if it is a list of whole numbers, with something in it."""
    whole = isinstance(values, list) and all(isinstance(v, int) and not isinstance(v, bool) for v in values)
    if not whole or not values:
        raise ValueError(f"{name} is {values!r}: give a list of whole numbers.")
    return tuple(dict.fromkeys(values))


def judging(tune: Mapping[str, Any], seeds: Sequence[int]) -> tuple[str, float, tuple[int, ...]]:
    """(criterion, share held out, seeds) of a ``[tune]`` table; ``seeds`` stand in for its own.

    Raises:
        LookupError, ValueError: one of them is misspelt or out of range.
    """
    criterion = tune.get("criterion", "nll")
    if criterion not in CRITERIA:
        raise LookupError(f"tune.criterion '{criterion}'.{near_miss(criterion, CRITERIA)}")
    share = cast(tune.get("holdout", 0.25), float, "tune.holdout")
    if not 0 < share < 1:
        raise ValueError(f"tune.holdout is {share}: give a share of the training split between 0 and 1.")
    return criterion, share, seed_list(tune.get("seeds", list(seeds)), "tune.seeds")


def _strings(values: Any, name: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name} is {values!r}: give a list of names.")
    return tuple(dict.fromkeys(values))


def _bases(methods: Sequence[str]) -> list[str]:
    """The methods that ``methods`` start from, directly or not."""
    found = [base for method in methods if (base := get_method(method).base) is not None]
    return [*found, *_bases(found)] if found else []


def _path(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is {value!r}: give the path of a file or folder.")
    return value


def _variants(table: Mapping[str, Any], file: Path, methods: tuple[str, ...]) -> dict[str, Variant]:
    if not table:
        return {"": Variant()}
    variants = {}
    for name, inner in table.items():
        where = f"variants.{name}"
        table_of(inner, where)
        rest = {key: value for key, value in inner.items() if key not in VARIANT_KEYS}
        included = read_toml(file.parent / _path(inner["include"], f"{where}.include")) if "include" in inner else {}
        chosen = _strings(inner["methods"], f"{where}.methods") if "methods" in inner else None
        if chosen == ():
            raise ValueError(f"{where}.methods is empty: name a method, or take the variant out.")
        for method in chosen or ():
            if method not in methods:
                raise LookupError(
                    f"{where}.methods names '{method}', which the grid does not have.{near_miss(method, methods)}"
                )
        sweep = cast(inner.get("sweep", True), bool, f"{where}.sweep")
        variants[name] = Variant(merge(included, rest), chosen, sweep)
    return variants


def check_options(table: Mapping[str, Any], where: str, reader: str, methods: Sequence[str]) -> None:
    """``where.<method>.<option>`` must be a list of values of an option that ``reader`` reads ("" for either).

    Each must be a value that the method takes. ``methods`` are those that the grid needs: the table of another one
    would change nothing.
    """
    for method, options in table.items():
        if method not in method_names():
            raise LookupError(f"{where} names '{method}', which is no method.{near_miss(method, method_names())}")
        if method not in methods:
            raise LookupError(f"{where} names '{method}', which the grid does not have.{near_miss(method, methods)}")
        table_of(options, f"{where}.{method}")
        fields = [o.name for o in get_method(method).hyperparameters().values() if reader in ("", o.reader)]
        for option, values in options.items():
            if option not in fields:
                kind = "hyperparameter that prediction reads" if reader else "hyperparameter"
                raise LookupError(f"{where}.{method}.{option} is no {kind} of {method}.{near_miss(option, fields)}")
            if not isinstance(values, list) or not values:
                raise ValueError(f"{where}.{method}.{option} is {values!r}: give a list of values.")
            # as the method has them, so that 0 and "0.0" are one
            taken = [getattr(get_method(method).make({option: value}), option) for value in values]
            if any(value in taken[:place] for place, value in enumerate(taken)):
                raise ValueError(f"{where}.{method}.{option} is {values!r}: each value counts once, so list it once.")


def choose_model(table: Mapping[str, Any], beside: Path | None = None) -> tuple[ModelSpec, Path | None]:
    """(resolved spec, folder of a local model or None) of a ``[model]`` table.

    ``id`` is ``embedded``, a folder (of the working directory, or of the grid file), or a name on the hub.
    """
    _known(table, MODEL_KEYS, "[model]")
    spec = build(ModelSpec, table)
    if not spec.id:
        raise ValueError("The model is '': use embedded, a name on the hub, or a folder (--model, or id in [model]).")
    folders = [Path(spec.id).expanduser(), *([beside / spec.id] if beside else [])]
    path = next((folder for folder in folders if spec.id != "embedded" and folder.is_dir()), None)
    if spec.revision and (path is not None or spec.id == "embedded"):
        raise ValueError(
            f"The model {path or spec.id} has no revisions, so '{spec.revision}' (--revision, or revision in [model]) "
            "pins nothing: remove it, or name a model on the hub."
        )
    return resolve_model(spec, path), path
