"""The shape of a grid file: its tables, their keys and the types of values. Names are looked up in bench.plan.grid.

protocol = "clean"                 # paper | clean
methods = ["adamw", "ivon"]
tasks = ["notes_two"]              # names, or files that describe a task (bench.data.file_task)
seeds = [1, 2]
plugins = ["my_pkg.my_module"]     # optional: modules that register methods or tasks, and task files
eval_every = 500                   # optional: steps between mid-run evaluations
batch_tokens = 1024                # optional: tokens of a forward pass at prediction, instead of 32 prompts
data_dir = "mirror"                # optional: local mirror of the datasets
allow_partial_data = false         # optional: accept splits with missing rows

[model]                            # optional: id (hub name, folder or embedded), revision, quantization, dtype, prompt,
                                   # packing and shared_prefix (true or false), adapter (a folder that PEFT saved, or a
                                   # hub name)
[set]                              # settings, see bench.plan.settings
[variants.tuned]                   # optional: labelled settings; they override [set], its per-task settings too
include = "chosen.toml"            # optional: a file with more of them, as `bench tune` writes it
methods = ["ivon"]                 # optional: the methods that this variant has; all by default
sweep = false                      # optional: leave the sweeps out
main = true                        # optional: the variant that a report shows first
[eval]                             # optional: training task -> tasks to evaluate on besides, out of distribution
notes_two = ["my_task"]
[sweep.ivon]                       # optional: prediction-time hyperparameters to vary
tau = [0, 0.5, 1]
[tune]                             # optional: how `bench tune` judges: criterion, holdout, seeds
[tune.ivon]                        # and what it tries
lr = [0.1, 0.3]
[tracking]                         # optional: what follows the training curves, see bench.train.trackers
trackers = ["csv"]
[slurm]                            # optional: settings of a launcher, see bench.launch.backends
partition = "gpu"
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

from bench.errors import near_miss, shown
from bench.specs.toml import read_toml


def _expect(words: str) -> WrapValidator:
    """Whatever is wrong with a value, the message is ``<key> is <value>: expected <words>.``"""

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("expected", "{words}", {"words": words}) from None

    return WrapValidator(check)


def _once(values: Any) -> Any:
    """A list as a tuple with each value once, in the order of their first places; True is not 1 here."""
    if not isinstance(values, list) or not all(isinstance(v, str | int) and not isinstance(v, bool) for v in values):
        return None
    return tuple(dict.fromkeys(values))


def _needed(values: Any) -> Any:
    if values == []:
        raise PydanticCustomError("missing", "")
    return values


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _table(value: Any) -> Any:
    if not isinstance(value, dict):
        raise PydanticCustomError("dict_type", "")
    return value


_STRICT = ConfigDict(strict=True, extra="forbid", frozen=True)
Text = Annotated[str, Field(min_length=1), _expect("a name")]
Location = Annotated[str, Field(min_length=1), _expect("the path of a file or folder")]
Names = Annotated[tuple[str, ...], BeforeValidator(_once), _expect("a list of names")]
Seeds = Annotated[tuple[int, ...], Field(min_length=1), BeforeValidator(_once), _expect("a list of whole numbers")]
Steps = Annotated[int, Field(ge=0), BeforeValidator(_whole), _expect("a number of steps, or 0 for none")]
Tokens = Annotated[
    int, Field(ge=0, le=2**24), BeforeValidator(_whole), _expect("a number of tokens, or 0 for 32 prompts a pass")
]
Share = Annotated[float, Field(gt=0, lt=1), _expect("a share of the training split between 0 and 1")]
Flag = Annotated[bool, _expect("true or false")]
Values = Annotated[list[Any], Field(min_length=1), _expect("a list of values")]
Table = Annotated[dict[str, Any], BeforeValidator(_table)]
Lists = Annotated[dict[str, Values], BeforeValidator(_table)]


class ModelTable(BaseModel):
    """``[model]``: the base."""

    model_config = _STRICT

    id: Annotated[str, _expect("a name")] = "embedded"
    revision: Annotated[str, _expect("a name")] | None = None
    quantization: Text = "none"
    dtype: Text = "float32"
    prompt: Text = "plain"
    packing: Flag = False
    shared_prefix: Flag = False
    adapter: Location | None = None


class TrackingTable(BaseModel):
    """``[tracking]``: what follows the training curves, see bench.train.trackers."""

    model_config = _STRICT

    trackers: Names = ()


class VariantTable(BaseModel):
    """``[variants.<label>]``: settings under a label; keys that are not fields here are settings."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    include: Location | None = None
    methods: Annotated[Names, Field(min_length=1), _expect("a list of at least one name")] | None = None
    sweep: Flag = True
    main: Flag = False

    @property
    def settings(self) -> dict[str, Any]:
        """The settings, without those of the included file."""
        return self.model_extra or {}


class TuneTable(BaseModel):
    """``[tune]``: how candidates are judged, and a table of lists of values for each method that is tuned."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Lists] = Field(init=False)

    criterion: Literal["nll", "brier", "ece"] = "nll"  # lower is better
    holdout: Share = 0.25
    seeds: Seeds | None = None  # the grid's
    tasks: Annotated[Names, Field(min_length=1), _expect("a list of at least one name")] | None = None  # the grid's

    @property
    def lists(self) -> dict[str, dict[str, list[Any]]]:
        """Method -> hyperparameter -> the values to try."""
        return self.__pydantic_extra__


class GridTable(BaseModel):
    """A whole grid file, without the tables of launchers."""

    model_config = _STRICT

    methods: Annotated[Names, BeforeValidator(_needed)]
    tasks: Annotated[Names, BeforeValidator(_needed)]
    seeds: Annotated[Seeds, BeforeValidator(_needed)]
    protocol: Text = "paper"
    plugins: Names = ()
    eval_every: Steps = 0
    batch_tokens: Tokens = 0
    data_dir: Location | None = None
    allow_partial_data: Flag = False
    model: ModelTable = ModelTable()
    set: Table = {}
    variants: Annotated[dict[str, VariantTable], BeforeValidator(_table)] = {}
    eval: Annotated[dict[str, Names], BeforeValidator(_table)] = {}
    sweep: Annotated[dict[str, Lists], BeforeValidator(_table)] = {}
    tune: TuneTable = TuneTable()
    tracking: TrackingTable = TrackingTable()


def read_grid_file(file: Path, launchers: Collection[str] = ()) -> tuple[GridTable, dict[str, Mapping[str, Any]]]:
    """The checked shape of a grid file, and its launchers' tables by name.

    Args:
        file: a TOML file.
        launchers: names of launchers, each of which may have a table.

    Raises:
        LookupError: an unknown key, with the near miss.
        FileNotFoundError, ValueError: no such file, or a value of the wrong type.
    """
    content = read_toml(file)
    tables = {name: content.pop(name) for name in launchers if name in content}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise _no_table(name, table)
    try:
        return GridTable.model_validate(content), tables
    except ValidationError as error:
        raise _sentence(error, file.name, launchers) from None


def read_model_table(table: Mapping[str, Any]) -> ModelTable:
    """A checked ``[model]`` table that comes from elsewhere than a grid file.

    Raises:
        LookupError, ValueError: as :func:`read_grid_file`.
    """
    try:
        return ModelTable.model_validate(dict(table))
    except ValidationError as error:
        raise _sentence(error, "", ()) from None


def _sentence(error: ValidationError, file: str, launchers: Collection[str]) -> Exception:
    """The first thing that is wrong, as an exception that says so in our words."""
    # an unknown key first: a misspelt one is missing under its right name
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    *outer, last = place = [str(part) for part in first["loc"]]
    kind, value, name = first["type"], first["input"], ".".join(place)
    if kind == "extra_forbidden" and not outer and file:
        return LookupError(f"{file} has no key '{last}'.{near_miss(last, [*GridTable.model_fields, *launchers])}")
    if kind == "extra_forbidden":
        known = TrackingTable.model_fields if outer == ["tracking"] else ModelTable.model_fields
        return LookupError(f"[{outer[0] if outer else 'model'}] has no key '{last}'.{near_miss(last, known)}")
    if outer == ["tune"] and last not in TuneTable.model_fields:
        return LookupError(f"[tune] has no key '{last}'.{near_miss(last, TuneTable.model_fields)}")
    if kind == "missing":
        return ValueError(f"{file} names no {name}: add `{name} = [...]`.")
    if kind == "literal_error":
        return LookupError(f"{name} is {shown(value)}.{near_miss(value, CRITERIA)}")
    if kind == "expected":
        return ValueError(f"{name} is {shown(value)}: expected {first['msg']}.")
    return _no_table(name, value)


CRITERIA = ("nll", "brier", "ece")


def _no_table(name: str, value: Any) -> ValueError:
    return ValueError(f"{name} is {shown(value)}: it is a table of settings, such as {name}.x = 1.")
