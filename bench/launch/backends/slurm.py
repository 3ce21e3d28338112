"""SLURM job arrays, one task per family. The only file that knows SLURM: sbatch, squeue, scancel, scontrol.

The script is an ordinary batch script, kept with the submission, that calls ``bench family``. SLURM's own state is for
display: what is done and what is missing is read from the store, and an array task whose family is done, or is being
computed elsewhere, ends at once. So submitting twice, losing the controller or being preempted cannot harm.

    --signal=B:USR2@N    N seconds before a time limit, and ``exec``, so that it reaches Python and not a shell:
                         checkpoint, give up the claim, `scontrol requeue`, exit 75
    --requeue            after a preemption or a dead node SLURM starts the task again, under the same id
    --array=0-n          dense indices into the submission's families; one script for each MaxArraySize of them
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import re
import shlex
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.errors import near_miss
from bench.launch.launcher import Order, Queued, Silent, State
from bench.launch.submission import Submission, new_submission, read_submission, write_submission
from bench.process.text import counted
from bench.specs import cast, hints
from bench.store.files import write_file
from bench.store.store import Store

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
QUEUED = re.compile(  # a line of squeue in FORMAT: array index, state, node, reason, job's id, name
    r"(?P<index>[0-9]{1,9})\|(?P<state>[A-Z_]+)\|(?P<node>[^|]*)\|(?P<reason>[^|]*)\|(?P<id>[0-9]+(_[0-9]+)?)\|(?P<name>.*)"
)
FORMAT = "%K|%T|%N|%r|%i|%j"
TASKS = re.compile(r"bench-(?P<id>[0-9TZ]{16}-[0-9a-f]{6})-(?P<first>\d+)")
READS = ("max_parallel", "wait")
CANCEL_AT_ONCE = 500  # ids in one call of scancel

OURS = {  # options by which jobs and their logs are found again, and restarted
    "job-name": "J", "array": "a", "output": "o", "chdir": "D",
    "open-mode": "", "signal": "", "requeue": "", "no-requeue": "",
}  # fmt: skip

logger = logging.getLogger(__name__)


def _ours(option: str) -> str:
    """The option of :data:`OURS` that an option of sbatch is, abbreviated or not; "" if it is another."""
    if not option.startswith("--"):
        return next((f"-{short}" for short in OURS.values() if short and option[1:2] == short), "")
    name = re.split(r"[=\s]", option[2:], maxsplit=1)[0]
    return next((f"--{known}" for known in OURS if name and known.startswith(name)), "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlurmSettings:
    """The ``[slurm]`` table of a grid file; ``--with NAME=VALUE`` wins over it. The cluster decides what is empty."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    time: str = ""  # for one family: "4:00:00", "1-00:00:00", minutes
    memory: str = ""  # "32G"
    cpus: int = 0  # CPUs per task
    gres: str = ""  # "gpu:1", or whatever the cluster calls a GPU
    constraint: str = ""
    warn_seconds: int = 120  # time for a last checkpoint before a limit
    sbatch: tuple[str, ...] = ()  # further options, without the #SBATCH: "--exclude=n3"
    setup: tuple[str, ...] = ()  # shell lines before our command: "module load cuda", "export HF_HUB_OFFLINE=1"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for text in value if isinstance(value, tuple) else (value,):
                if "\n" in str(text):
                    raise ValueError(f"slurm.{field.name} is {text!r}: give one line, or a list of lines.")
        for line in self.sbatch:
            if not line.startswith("-"):
                raise ValueError(f"slurm.sbatch has {line!r}: give options of sbatch, such as --exclude=n3.")
            if ours := _ours(line):
                raise ValueError(f"slurm.sbatch has {line!r}: the suite sets {ours} itself, so leave that out.")
        if self.cpus < 0:
            raise ValueError(f"slurm.cpus is {self.cpus}: use at least 1, or 0 for the cluster's default.")
        if self.warn_seconds < 1:
            raise ValueError(f"slurm.warn_seconds is {self.warn_seconds}: give at least 1.")

    def options(self) -> list[str]:
        """The options of sbatch that these settings ask for."""
        named = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "time": self.time,
            "mem": self.memory,
            "cpus-per-task": self.cpus,
            "gres": self.gres,
            "constraint": self.constraint,
        }
        return [*(f"--{name}={_quoted(str(value))}" for name, value in named.items() if value), *self.sbatch]


def settings_of(table: Mapping[str, Any]) -> SlurmSettings:
    """Checked settings.

    Raises:
        LookupError, ValueError: a misspelt name, with the near miss, or a value that does not fit.
    """
    known = hints(SlurmSettings)
    for name in table:
        if name not in known:
            raise LookupError(f"[slurm] has no key '{name}'.{near_miss(name, known)}")
    # TOML reads 04:00:00 as a time of day, and 60 as a number
    plain = {
        name: str(value)
        if known[name] is str and isinstance(value, int | datetime.time) and not isinstance(value, bool)
        else value
        for name, value in table.items()
    }
    return SlurmSettings(**{name: cast(value, known[name], f"slurm.{name}") for name, value in plain.items()})


def launch(order: Order) -> list[str]:
    """Submit the families and return at once.

    Raises:
        FileNotFoundError, ValueError: no sbatch here, or SLURM refused, in its own words.
    """
    settings = settings_of(order.settings)
    submission = new_submission(order.store, "slurm", order.title, order.families)
    for folder in (str(submission.folder), str(Path.cwd())):
        if not folder.isprintable() or "\\" in folder:
            raise ValueError(
                f"SLURM cannot be told the folder {folder!r}: use one without backslashes and line breaks."
            )
    if order.dry_run:
        print(script(submission, settings, 0, min(len(order.families), 1000), order.max_parallel), end="")
        return []
    size = _array_size()
    write_submission(submission, order.execution, order.families)
    previous = ""
    for first in range(0, len(order.families), size):
        count = min(size, len(order.families) - first)
        file = submission.folder / f"array-{first}.sh"
        write_file(file, script(submission, settings, first, count, order.max_parallel))
        # a limit on how many run at once holds for one array only, so with a limit the arrays come one by one
        after = [f"--dependency=afterany:{previous}"] if previous and order.max_parallel else []
        try:
            previous = _job_number(_run("sbatch", "--parsable", *after, str(file)))
        except ValueError as error:
            sent = f" {first} of {len(order.families)} families were submitted." if first else ""
            raise ValueError(f"{error}{sent} The script is {file}.") from None
        logger.info("submitted %s as job %s: %s", counted(count, "family", "families"), previous, file)
    return []


def lacking() -> str:
    """Why jobs cannot be submitted from this machine; "" if they can."""
    return "" if shutil.which("sbatch") else "there is no sbatch here: submit from a login node"


def queue(store: Store) -> dict[str, Queued]:
    """Every family of this store that SLURM knows as waiting or running, by key. Empty without SLURM.

    Raises:
        Silent: SLURM does not answer.
    """
    found: dict[str, Queued] = {}
    for family, task in _tasks(store):
        other = found.get(family)  # it may be there twice, once with more to compute
        if other is not None:
            shown = task if task.state == State.RUNNING else other
            task = dataclasses.replace(shown, runs=task.runs | other.runs)
        found[family] = task
    return found


def cancel(store: Store, keys: Collection[str]) -> list[str]:
    """Cancel the tasks of these families. A running one gets SIGTERM, so it leaves a checkpoint."""
    ids = [task.id for family, task in _tasks(store) if family in keys]
    for first in range(0, len(ids), CANCEL_AT_ONCE):
        _run("scancel", *ids[first : first + CANCEL_AT_ONCE])
    return [f"cancelled {len(ids)} SLURM tasks"] if ids else []


def _tasks(store: Store) -> Iterator[tuple[str, Queued]]:
    """(key of its family, itself) for every task of this store in SLURM's queue.

    Jobs are recognised by their names, which hold the submission's id: SLURM may issue a job's number twice.
    """
    if not any(store.submissions.glob("*/array-*.sh")):
        return
    try:
        text = _run("squeue", "--noheader", "--array", "--me", f"--format={FORMAT}")
    except FileNotFoundError:  # a machine outside the cluster; the store says what is done
        return
    submissions: dict[str, Submission | None] = {}
    for line in text.splitlines():
        found = QUEUED.fullmatch(line.strip("\ufeff \t\r"))  # not a banner
        job = TASKS.fullmatch(found["name"]) if found else None
        if found is None or job is None or found["state"] in ENDED:
            continue
        if job["id"] not in submissions:
            submissions[job["id"]] = read_submission(store, job["id"])
        submission, place = submissions[job["id"]], int(job["first"]) + int(found["index"])
        if submission is None or place >= len(submission.keys):
            continue  # of another store
        running = found["state"] in ("RUNNING", "COMPLETING")
        sent = frozenset(submission.runs[place])
        yield (
            submission.keys[place],
            Queued(
                State.RUNNING if running else State.WAITING,
                found["node"],
                "" if running else found["reason"],
                found["id"],
                sent,
            ),
        )


def script(submission: Submission, settings: SlurmSettings, first: int, count: int, max_parallel: int) -> str:
    """The batch script for ``count`` families from number ``first`` on."""
    limit = f"%{max_parallel}" if max_parallel else ""
    log = str(submission.logs / f"{first}-").replace("%", "%%")
    options = [
        f"--job-name=bench-{submission.id}-{first}",
        f"--array=0-{count - 1}{limit}",
        f"--output={_quoted(log + '%a.log')}",
        "--open-mode=append",
        f"--chdir={_quoted(str(Path.cwd()))}",
        "--requeue",
        f"--signal=B:USR2@{settings.warn_seconds}",
        *settings.options(),
    ]
    item = f'"$((SLURM_ARRAY_TASK_ID + {first}))"' if first else '"$SLURM_ARRAY_TASK_ID"'
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in options),
        "",
        *settings.setup,
        f"exec {submission.command(item)} \\",
        f'    --job "{submission.id}/$SLURM_ARRAY_JOB_ID/$SLURM_ARRAY_TASK_ID" \\',
        '    --restart "${SLURM_RESTART_COUNT:-0}" --node "$SLURMD_NODENAME" \\',
        '    --on-warning "scontrol requeue $SLURM_JOB_ID"',
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text if re.fullmatch(r"[\w./:,=%@+~-]*", text) else shlex.quote(text)


def _job_number(said: str) -> str:
    """The number of the job in the output of ``sbatch --parsable``: ``number`` or ``number;cluster``.

    Sites print banners and checks before it, and some after it; its line holds nothing else.

    Raises:
        ValueError: there is no such line.
    """
    lines = [re.fullmatch(r"(\d+)(;[\w.-]+)?", line.strip("\ufeff \t\r")) for line in said.splitlines()]
    found = [line[1] for line in lines if line]
    if not found:
        raise ValueError(f"sbatch printed no job number, but {said.strip()[-200:]!r}: see `squeue --me` for the job.")
    return found[-1]


def _array_size() -> int:
    """The largest number of tasks in one array: indices end at MaxArraySize - 1."""
    found = re.search(r"^\W*MaxArraySize\s*=\s*(\d+)", _run("scontrol", "show", "config"), re.MULTILINE)
    if found is None:
        raise ValueError("`scontrol show config` names no MaxArraySize: is this a SLURM cluster?")
    return max(1, int(found[1]))


def _run(*command: str) -> str:
    """The output of a SLURM command.

    Raises:
        FileNotFoundError: SLURM is not installed here.
        ValueError: it refused, in its own words.
        Silent: it is there and does not answer.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=120, check=False
        )
    except FileNotFoundError:
        raise FileNotFoundError(
            f"There is no {command[0]} here: submit from a machine of a SLURM cluster, or use --launcher local."
        ) from None
    except PermissionError as error:
        raise ValueError(f"{command[0]} cannot be run ({error.strerror}).") from None
    except subprocess.TimeoutExpired:
        raise Silent(f"{command[0]} did not answer in two minutes.") from None
    if done.returncode and "Unable to contact slurm controller" in done.stderr:
        raise Silent(f"{command[0]}: {done.stderr.strip()}")
    if done.returncode:
        raise ValueError(f"{command[0]} refused: {(done.stderr or done.stdout).strip()}")
    return done.stdout
