"""Options that several commands share. A command takes one of the dataclasses as a parameter (`bench.cli.app`)."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.process.holder import SECONDS

if TYPE_CHECKING:
    from bench.model.placement import DeviceMap

_SPEC, _MACHINE, _LAUNCH = "What is run", "This machine", "Where it runs"  # groups of options in the help

GridFile = Annotated[Path, typer.Argument(metavar="GRID", help="A grid file (TOML).", show_default=False)]
Key = Annotated[str, typer.Argument(metavar="KEY", help="A key, or its first four or more digits.", show_default=False)]
Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="The store: where results are kept.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Plugins = Annotated[
    list[str],
    typer.Option(
        "--plugin",
        metavar="MODULE",
        help="Load a module with methods or tasks, or a task file (*.toml), first.",
        show_default=False,
    ),
]
Workers = Annotated[int, typer.Option(metavar="N", help="Local processes.", rich_help_panel=_LAUNCH)]
RUNS = Path("runs")
MANY = 1024  # threads or processes, more than any machine that this runs on has use for
WEEK = 7 * 86400.0


@dataclasses.dataclass(frozen=True)
class SpecOptions:
    """Command-line options that change runs, in addition to the grid file."""

    assignments: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change a setting: steps=200, lora.r=16, ivon.ess=1e6, ...",
            show_default=False,
            rich_help_panel=_SPEC,
        ),
    ] = dataclasses.field(default_factory=list)
    plugins: Annotated[
        list[str],
        typer.Option(
            "--plugin",
            metavar="MODULE",
            help="Load a module with methods or tasks, or a task file (*.toml), first.",
            show_default=False,
            rich_help_panel=_SPEC,
        ),
    ] = dataclasses.field(default_factory=list)
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH",
            help="Base model: embedded (default), hub name, folder or .gguf file.",
            rich_help_panel=_SPEC,
        ),
    ] = None
    revision: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Commit, tag or branch of a hub model.", rich_help_panel=_SPEC),
    ] = None
    quantization: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Quantization of the base: none (default), int8, nf4.", rich_help_panel=_SPEC
        ),
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Number format of the base: float32 (default), bfloat16, float16.",
            rich_help_panel=_SPEC,
        ),
    ] = None
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Form of the prompts: plain (default), chat (the tokenizer's chat template).",
            rich_help_panel=_SPEC,
        ),
    ] = None
    packing: Annotated[
        bool | None,
        typer.Option(
            "--packing",
            help="Train on rows that hold all prompts of a batch, without padding.",
            show_default=False,
            rich_help_panel=_SPEC,
        ),
    ] = None
    shared_prefix: Annotated[
        bool | None,
        typer.Option(
            "--shared-prefix",
            help="With --packing: the tokens that all prompts of a row begin with are computed once.",
            show_default=False,
            rich_help_panel=_SPEC,
        ),
    ] = None
    adapter: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|NAME",
            help="A LoRA adapter that PEFT saved, for the methods adapter and NAME_adapter; its base is the default.",
            rich_help_panel=_SPEC,
        ),
    ] = None
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Read the datasets from this local mirror of the hub.", rich_help_panel=_SPEC),
    ] = None
    allow_partial_data: Annotated[
        bool,
        typer.Option(
            "--allow-partial-data", help="Accept splits with missing rows; results are marked.", rich_help_panel=_SPEC
        ),
    ] = False

    @property
    def model_table(self) -> dict[str, Any]:
        """The fields of a ``[model]`` table that the command line sets."""
        given = {
            "id": self.model,
            "revision": self.revision,
            "quantization": self.quantization,
            "dtype": self.dtype,
            "prompt": self.prompt,
            "packing": self.packing,
            "shared_prefix": self.shared_prefix,
            "adapter": self.adapter,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class DeviceOptions:
    """The device and its workers."""

    device: Annotated[
        str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.", rich_help_panel=_MACHINE)
    ] = "auto"
    threads: Annotated[
        int, typer.Option(metavar="N", help="CPU threads of each process.", rich_help_panel=_MACHINE)
    ] = 1
    device_map: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Spread a base larger than one GPU over devices: auto, balanced, sequential, or a .json file.",
            rich_help_panel=_MACHINE,
        ),
    ] = None

    def __post_init__(self) -> None:
        """Refuse what is out of range, before any work."""
        if not 1 <= self.threads <= MANY:
            raise ValueError(f"--threads {self.threads}: use 1 to {MANY}.")
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", self.device):
            raise ValueError(f"--device '{self.device}': use auto, cpu, cuda or cuda:N.")
        if self.device_map is not None and self.device != "auto":
            raise ValueError("--device-map says where each layer goes: leave out --device.")

    @property
    def placed(self) -> DeviceMap | None:
        """The device map.

        Raises:
            ValueError: the option names none.
            ModelNotUsable: accelerate is missing.
        """
        if self.device_map is None:
            return None
        from bench.model.placement import check_accelerate, read_device_map

        check_accelerate()
        return read_device_map(self.device_map)


@dataclasses.dataclass(frozen=True)
class ExecutionOptions(DeviceOptions):
    """Execution settings of this machine; none is part of a key."""

    graphs: Annotated[
        bool,
        typer.Option("--graphs", help="Train with CUDA graphs: faster for small models.", rich_help_panel=_MACHINE),
    ] = False
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Train with layers that torch.compile has compiled; goes with --graphs.",
            rich_help_panel=_MACHINE,
        ),
    ] = False
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing",
            help="Train with less memory: activations are computed again. Same results.",
            rich_help_panel=_MACHINE,
        ),
    ] = False
    track: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help="Send the curves of new trainings to a tracker: csv, tensorboard or module:Class.",
            show_default=False,
            rich_help_panel=_MACHINE,
        ),
    ] = dataclasses.field(default_factory=list)
    checkpoint_seconds: Annotated[
        float,
        typer.Option(metavar="S", help="Shortest time between two checkpoints.", rich_help_panel=_MACHINE),
    ] = 30.0
    claim_seconds: Annotated[
        float,
        typer.Option(metavar="S", help="Silence after which another process counts as dead.", rich_help_panel=_MACHINE),
    ] = SECONDS

    def __post_init__(self) -> None:
        """Refuse what is out of range, before any work."""
        super().__post_init__()
        if not 0 < self.claim_seconds <= WEEK:  # NaN too
            raise ValueError(f"--claim-seconds {self.claim_seconds}: use more than 0 and at most {WEEK:.0f}, a week.")
        if not 0 <= self.checkpoint_seconds <= WEEK:
            raise ValueError(f"--checkpoint-seconds {self.checkpoint_seconds}: use 0 to {WEEK:.0f}, a week.")


def check_workers(count: int) -> None:
    """Refuse a number of workers that is out of range."""
    if not 1 <= count <= MANY:
        raise ValueError(f"--workers {count}: use 1 to {MANY}.")


@dataclasses.dataclass(frozen=True)
class LaunchOptions:
    """The launcher, and how often a family is tried."""

    launcher: Annotated[
        str, typer.Option(metavar="NAME", help="local, slurm, print, or one you added.", rich_help_panel=_LAUNCH)
    ] = "local"
    launcher_assignments: Annotated[
        list[str],
        typer.Option(
            "--with",
            metavar="NAME=VALUE",
            help="Change a setting of the launcher: partition=gpu, ...",
            show_default=False,
            rich_help_panel=_LAUNCH,
        ),
    ] = dataclasses.field(default_factory=list)
    workers: Workers = 1
    max_parallel: Annotated[
        int,
        typer.Option(metavar="N", help="Families at once on a cluster; 0: no limit.", rich_help_panel=_LAUNCH),
    ] = 0
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be launched.", rich_help_panel=_LAUNCH)
    ] = False
    retries: Annotated[
        int,
        typer.Option(metavar="N", help="Failures after which a family is given up.", rich_help_panel=_LAUNCH),
    ] = 3
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Retry families that were given up.", rich_help_panel=_LAUNCH),
    ] = False

    def __post_init__(self) -> None:
        """Refuse what is out of range, before any work."""
        check_workers(self.workers)
        if self.max_parallel < 0:
            raise ValueError(f"--max-parallel {self.max_parallel}: use 0 (no limit) or more.")
        if not self.retry_failed and self.retries < 1:
            raise ValueError(f"--retries {self.retries}: use at least 1.")
