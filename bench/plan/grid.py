"""A grid: methods, tasks, seeds and variants of settings; from a file (bench.plan.grid_file) or one run, to specs."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.data.file_task import load_extension, named_task
from bench.data.protocol import splits_for
from bench.data.splits import DataSource
from bench.errors import near_miss, shown
from bench.method import get_method, is_method, method_names
from bench.model.own_adapter import check_fits
from bench.plan.base_model import choose_model, overridden
from bench.plan.grid_file import GridTable, TuneTable, VariantTable, read_grid_file
from bench.plan.own_adapter import check_form, choose_adapter, settings_over
from bench.plan.runs import Planner, check_label, check_seed, families
from bench.plan.settings import Layer, Settings, check_used, merge
from bench.specs import Family, ModelSpec, RunSpec
from bench.specs.toml import expanded, read_toml
from bench.task import get_task
from bench.train.trackers import check_trackers

MOST_RUNS = 50_000  # evaluations of one grid

Check = Callable[[Layer], Any]  # raises LookupError or ValueError for a table that does not fit


@dataclasses.dataclass(frozen=True)
class Variant:
    """Settings under a label; for all methods of the grid unless some are named, with the grid's sweeps unless not.

    ``main`` marks the variant that a report shows first.
    """

    settings: Layer = dataclasses.field(default_factory=dict)
    methods: tuple[str, ...] | None = None
    sweep: bool = True
    main: bool = False


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
    batch_tokens: int = 0
    source: DataSource = dataclasses.field(default_factory=DataSource)
    model: ModelSpec = dataclasses.field(default_factory=ModelSpec)
    model_path: Path | None = None
    adapter_path: Path | None = None
    settings: Settings = dataclasses.field(default_factory=Settings)
    overrides: Layer = dataclasses.field(default_factory=dict)  # of the command line, over those of variants too
    variants: Mapping[str, Variant] = dataclasses.field(default_factory=lambda: {"": Variant()})
    evals: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    sweep: Mapping[str, Mapping[str, list[Any]]] = dataclasses.field(default_factory=dict)
    tune: TuneTable = dataclasses.field(default_factory=TuneTable)
    launchers: Mapping[str, Layer] = dataclasses.field(default_factory=dict)
    trackers: tuple[str, ...] = ()

    @functools.cached_property
    def planner(self) -> Planner:
        """The planner of the grid's runs."""
        return Planner(self.model, self.source, self.protocol, self.batch_tokens)

    @functools.cached_property
    def variant_settings(self) -> dict[str, Settings]:
        """The settings of each variant."""
        return {
            label: self.settings.over(variant.settings).over(self.overrides) for label, variant in self.variants.items()
        }

    @property
    def main_variant(self) -> str | None:
        """The label of the variant that is marked as the main one."""
        return next((label for label, variant in self.variants.items() if variant.main), None)

    def runs(self) -> list[RunSpec]:
        """All run specs: every method, task, seed and variant, on its own task and on others, then the sweeps.

        Raises:
            LookupError, ValueError: something does not fit, or there are too many; before anything is loaded.
        """
        self._check_size()
        points = self._sweep_points()
        planned = []
        for label, task, seed, method in itertools.product(self.variants, self.tasks, self.seeds, self.methods):
            if not self._has(label, method):
                continue
            plan = functools.partial(self.planner.run, method, task, seed, variant=label)
            settings = self.variant_settings[label]
            run = plan(settings)
            planned.append(run)
            planned += [plan(settings, eval_task=other) for other in self.evals.get(task, ())]
            swept = (plan(point, purpose="sweep") for point in points.get((label, method), ()))
            planned += [point for point in swept if point.options != run.options]
        return planned

    @property
    def all_tasks(self) -> tuple[str, ...]:
        """The tasks that are trained on or scored, each once."""
        return tuple(dict.fromkeys((*self.tasks, *(name for others in self.evals.values() for name in others))))

    def families(self) -> list[Family]:
        """The units of work."""
        return families(self.runs())

    def _has(self, label: str, method: str) -> bool:
        methods = self.variants[label].methods
        return methods is None or method in methods

    def _sweep_points(self) -> dict[tuple[str, str], list[Settings]]:
        """(variant, method) -> the settings of each point of the method's sweeps."""
        return {
            (label, method): [
                self.variant_settings[label].over({method: {name: value}})
                for name, values in self.sweep.get(method, {}).items()
                for value in values
            ]
            for label, method in itertools.product(self.variants, self.methods)
            if self.variants[label].sweep and self._has(label, method)
        }

    def _check_size(self) -> None:
        swept = sum(len(values) for lists in self.sweep.values() for values in lists.values())
        others = max((len(tasks) for tasks in self.evals.values()), default=0)
        each = len(self.methods) * (1 + others) + swept
        check_count(len(self.variants) * len(self.tasks) * len(self.seeds) * each, self.name)


def check_count(runs: int, name: str) -> None:
    """Refuse a plan that is larger than anyone could have meant."""
    if runs > MOST_RUNS:
        raise ValueError(
            f"{name} asks for {runs} evaluations, and {MOST_RUNS} is the most: take fewer seeds or values."
        )


def single(
    method: str,
    task: str,
    seed: int,
    *,
    protocol: str = "paper",
    variant: str = "",
    eval_tasks: Iterable[str] = (),
    eval_every: int = 0,
    source: DataSource | None = None,
    model: Layer | None = None,
    overrides: Layer | None = None,
    plugins: tuple[str, ...] = (),
    trackers: Iterable[str] = (),
) -> Grid:
    """The grid of one method on one task with one seed, as ``bench run`` asks for it.

    Raises:
        LookupError, ValueError: what is wrong, and the near miss, before anything is loaded.
    """
    loaded = [load_extension(plugin) for plugin in plugins]
    (task, *others), extensions = _tasks((task, *eval_tasks))
    get_method(method)
    splits_for(protocol, get_task(task))
    adapter, table = choose_adapter(model or {}, [method])
    settings = settings_over(adapter, overrides or {})
    check_used(overrides or {}, with_bases([method]), [task])
    spec, path = choose_model(table)
    if adapter is not None:
        check_fits(adapter, spec, path)
    return Grid(
        name="run",
        methods=(method,),
        tasks=(task,),
        seeds=(seed,),
        protocol=protocol,
        plugins=(*loaded, *extensions),
        eval_every=eval_every,
        source=source or DataSource(),
        model=spec,
        model_path=path,
        adapter_path=adapter.path if adapter else None,
        settings=settings,
        variants={variant: Variant()},
        evals={task: _others(task, tuple(dict.fromkeys(others)), "--eval-task")},
        trackers=_trackers(trackers),
    )


def read_grid(
    file: Path,
    *,
    data_dir: Path | None = None,
    allow_partial: bool = False,
    model: Layer | None = None,
    overrides: Layer | None = None,
    plugins: tuple[str, ...] = (),
    with_variants: bool = True,
    launchers: Mapping[str, Check] | None = None,
    trackers: Iterable[str] = (),
) -> Grid:
    """The grid of a file, with what the command line says laid over it; every name is checked.

    Args:
        with_variants: False leaves the ``[variants]`` table out: `bench tune` has yet to write what it includes.
        launchers: names of launchers, which may have tables, and what checks those.
        trackers: trackers besides those of ``[tracking]``.

    Raises:
        LookupError, ValueError, FileNotFoundError: what is wrong, and the near miss, before anything is loaded.
    """
    file = expanded(file)
    table, launcher_tables = read_grid_file(file, launchers or {})
    for name, check in (launchers or {}).items():
        if name in launcher_tables:
            check(launcher_tables[name])
    loaded = [load_extension(plugin, file.parent) for plugin in table.plugins]
    loaded += [load_extension(plugin) for plugin in plugins]
    tasks, extensions = _tasks(table.tasks, file.parent)
    evals, more = _evals(table, tasks, file.parent)
    for method in table.methods:
        get_method(method)
    for task in tasks:
        splits_for(table.protocol, get_task(task))
    for seed in (*table.seeds, *(table.tune.seeds or ())):
        check_seed(seed)
    asked = overridden(_beside(table.model.model_dump(exclude_unset=True), file.parent), model or {})
    adapter, asked = choose_adapter(asked, table.methods, file.parent)
    settings = settings_over(adapter, table.set).over(overrides or {})
    check_used(overrides or {}, with_bases(table.methods), tasks)
    check_lists(table.sweep, "sweep", table.methods, reader="predict")
    check_lists(table.tune.lists, "tune", with_bases(table.methods))
    spec, path = choose_model(asked, file.parent)
    if adapter is not None:
        check_fits(adapter, spec, path)
    folder = data_dir or (file.parent / expanded(table.data_dir) if table.data_dir is not None else None)
    grid = Grid(
        name=file.stem,
        methods=table.methods,
        tasks=tasks,
        seeds=table.seeds,
        protocol=table.protocol,
        plugins=tuple(dict.fromkeys((*loaded, *extensions, *more))),
        eval_every=table.eval_every,
        batch_tokens=table.batch_tokens,
        source=DataSource(folder, allow_partial or table.allow_partial_data),
        model=spec,
        model_path=path,
        adapter_path=adapter.path if adapter else None,
        settings=settings,
        overrides=overrides or {},
        variants=_variants(table, file) if with_variants and table.variants else {"": Variant()},
        evals=evals,
        sweep=table.sweep,
        tune=table.tune,
        launchers=launcher_tables,
        trackers=_trackers((*table.tracking.trackers, *trackers)),
    )
    for varied in grid.variant_settings.values():  # its checks
        check_form(adapter, varied)
    return grid


def _trackers(names: Iterable[str]) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(names))
    check_trackers(chosen)
    return chosen


def _beside(table: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A ``[model]`` table whose folders and files are those next to the grid, where there are such."""
    found = {name: folder / expanded(table[name]) for name in ("id", "adapter") if table.get(name)}
    return table | {
        name: str(place.absolute()) for name, place in found.items() if table[name] != "embedded" and place.exists()
    }


def _tasks(named: Iterable[str], folder: Path = Path()) -> tuple[tuple[str, ...], list[str]]:
    """(the names of tasks, what a worker has to load for them), where a task may be named by its file."""
    found = [named_task(name, folder) for name in named]
    return tuple(name for name, _ in found), [extension for _, loaded in found for extension in loaded]


def _evals(table: GridTable, tasks: Collection[str], folder: Path) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    evals, extensions = {}, []
    for task, named in table.eval.items():
        if task not in tasks:
            raise LookupError(f"[eval] names '{task}', which the grid does not train on.{near_miss(task, tasks)}")
        others, loaded = _tasks(named, folder)
        evals[task] = _others(task, others, f"eval.{task}")
        extensions += loaded
    return evals, extensions


def _others(task: str, others: tuple[str, ...], where: str) -> tuple[str, ...]:
    for other in others:
        get_task(other)
    if task in others:
        raise ValueError(f"{where} names '{task}' itself, which is evaluated anyway: leave it out.")
    return others


def with_bases(methods: Iterable[str]) -> list[str]:
    """The methods, and those that they start from or whose settings they take over, directly or not."""
    found: dict[str, None] = {}
    waiting: list[str | None] = list(methods)
    while waiting:
        name = waiting.pop(0)
        if name is not None and name not in found:
            found[name] = None
            waiting += [get_method(name).base, get_method(name).settings_of]
    return list(found)


def _variants(table: GridTable, file: Path) -> dict[str, Variant]:
    variants = {}
    for label, inner in table.variants.items():
        check_label(label)
        for method in inner.methods or ():
            if method not in table.methods:
                raise LookupError(
                    f"variants.{label}.methods names '{method}', which the grid does not have."
                    f"{near_miss(method, table.methods)}"
                )
        variants[label] = Variant(_layer(inner, file), inner.methods, inner.sweep, inner.main)
    marked = [label for label, variant in variants.items() if variant.main]
    if len(marked) > 1:
        raise ValueError(f"The variants {' and '.join(marked)} are both marked `main`: mark one.")
    return variants


def _layer(variant: VariantTable, file: Path) -> Layer:
    """The settings of a variant: its own over those of the file that it includes."""
    if variant.include is None:
        return variant.settings
    return merge(read_toml(file.parent / expanded(variant.include)), variant.settings)


def check_lists(
    table: Mapping[str, Mapping[str, list[Any]]], where: str, methods: Collection[str], reader: str = ""
) -> None:
    """``where.<method>.<option>`` must be values that an option can take, one that ``reader`` reads ("" for either).

    ``methods`` are those that the grid needs: the table of another one would change nothing.

    Raises:
        LookupError, ValueError: a name is misspelt, or a value does not fit or is listed twice.
    """
    for method, lists in table.items():
        if not is_method(method):
            raise LookupError(f"{where} names '{method}', which is not a method.{near_miss(method, method_names())}")
        if method not in methods:
            raise LookupError(f"{where} names '{method}', which the grid does not have.{near_miss(method, methods)}")
        known = [o.name for o in get_method(method).hyperparameters().values() if reader in ("", o.reader)]
        for option, values in lists.items():
            name = f"{where}.{method}.{option}"
            if option not in known:
                kind = "prediction-time hyperparameter" if reader else "hyperparameter"
                hint = near_miss(option, known) if known else " It has none."
                raise LookupError(f"{name} is not a {kind} of {method}.{hint}")
            # as the method has them, so that 0 and "0.0" are one
            one = get_method(method).hyperparameters()[option]
            taken = [one.cast(value, f"{method}.{option}") for value in values]
            if len(set(taken)) < len(taken):
                raise ValueError(f"{name} is {shown(values)}: each value counts once, so list it once.")
