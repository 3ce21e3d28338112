"""A real SLURM on this machine: its own munged, slurmctld and one or two slurmd, as any user, without systemd.

Everything lies under one folder, listens on the loopback address only, and ends with :meth:`Cluster.stop`. The GPUs are
symbolic links to /dev/null: SLURM gives each job one of them, and no hardware is needed.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

INSTALL = "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")

# cred_expire is also how long a requeued job is held before it may start again. slurmd loads a cgroup plugin even when
# nothing uses it; v1 on an empty private folder starts with no cgroups, v1 or v2, writable or not.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=1
JobRequeue=1
KillWait=5
MinJobAge=300
SlurmctldTimeout=30
SlurmdTimeout=10
SlurmdParameters=config_overrides
MaxArraySize={max_array}
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
{nodes}
PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE OverTimeLimit=0 State=UP
"""


def missing_programs() -> list[str]:
    """What is not installed here of what a cluster needs."""
    return [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]


class Cluster:
    """A started cluster with ``slots`` places for jobs, shared out evenly among its nodes."""

    def __init__(self, nodes: int = 1, slots: int = 2, max_array: int = 1001) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="bench-slurm-"))
        self.root.chmod(0o755)  # munge wants every folder above its socket to be searchable by all
        self.nodes = [f"n{number + 1}" for number in range(nodes)]
        self.environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(self.root / "slurm.conf")}
        self._configure(slots // nodes, max_array)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def run(self, *command: str) -> str:
        """What a command of SLURM prints; it must succeed."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        subprocess.run(["slurmd", "-f", self.root / "slurm.conf", "-N", node], env=self.environment, check=True)

    def kill_node(self, node: str) -> None:
        """Kill a node's daemon and all its jobs with SIGKILL, as a power cut would."""
        os.kill(int((self.root / f"slurmd-{node}.pid").read_text()), signal.SIGKILL)
        found = _processes()
        steps = [number for number, command, _ in found if "slurmstepd" in command and self._step_on(number, node)]
        marks = (f"SLURMD_NODENAME={node}\n", f"SLURM_CONF={self.root}/slurm.conf\n")
        jobs = [number for number, _, environment in found if all(mark in environment for mark in marks)]
        assert steps and jobs, f"no job runs on {node}"
        for number in (*steps, *jobs):  # the steps first: they would report their job's end
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def stop(self) -> None:
        """End the daemons and remove their files."""
        with contextlib.suppress(Exception):
            subprocess.run(
                ["scancel", "--me"], env=self.environment, timeout=10, check=False, stderr=subprocess.DEVNULL
            )
            time.sleep(0.5)
        for file in [*self.root.glob("slurmd-*.pid"), self.root / "slurmctld.pid", self.root / "munge/pid"]:
            with contextlib.suppress(OSError, ValueError):
                _end(int(file.read_text()))
        shutil.rmtree(self.root, ignore_errors=True)

    def _configure(self, cpus: int, max_array: int) -> None:
        for folder in ("munge", "state", "log", "dev", "cgroup"):
            (self.root / folder).mkdir()
        key = self.root / "munge/key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        host, ports = socket.gethostname().split(".")[0], _free_ports(1 + len(self.nodes))
        lines, gpus = [], ["AutoDetect=off"]
        for node, port in zip(self.nodes, ports[1:], strict=True):
            for number in range(cpus):
                (self.root / f"dev/{node}-gpu{number}").symlink_to("/dev/null")
            gpus.append(f"NodeName={node} Name=gpu File={self.root}/dev/{node}-gpu[0-{cpus - 1}]")
            lines.append(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=4000 "
                f"Gres=gpu:{cpus} State=UNKNOWN"
            )
        text = CONFIGURATION.format(
            host=host,
            user=pwd.getpwuid(os.getuid()).pw_name,
            port=ports[0],
            root=self.root,
            max_array=max_array,
            nodes="\n".join(lines),
            names=",".join(self.nodes),
        )
        (self.root / "slurm.conf").write_text(text)
        (self.root / "gres.conf").write_text("\n".join(gpus) + "\n")
        (self.root / "cgroup.conf").write_text(
            f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={self.root}/cgroup\n",
        )

    def _start(self) -> None:
        munge = self.root / "munge"
        names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        subprocess.run(
            ["munged", *(f"--{option}={munge / name}" for option, name in names.items())],
            env=self.environment,
            check=True,
        )
        subprocess.run(["slurmctld", "-f", self.root / "slurm.conf", "-c"], env=self.environment, check=True)
        for node in self.nodes:
            self.start_node(node)
        deadline = time.monotonic() + 30
        while self._states() != ["idle"] * len(self.nodes):
            if time.monotonic() > deadline:
                logs = [f"== {file}\n{file.read_text()[-2000:]}" for file in self.root.glob("log/*.log")]
                raise RuntimeError("SLURM did not come up:\n" + "\n".join(logs))
            time.sleep(0.1)

    def _states(self) -> list[str]:
        done = subprocess.run(
            ["sinfo", "-h", "-N", "-o", "%t"], env=self.environment, capture_output=True, text=True, timeout=20
        )
        return done.stdout.split()

    def _step_on(self, number: int, node: str) -> bool:
        """Whether a slurmstepd writes the log of a node."""
        with contextlib.suppress(OSError):
            files = [str(file.readlink()) for file in Path(f"/proc/{number}/fd").iterdir()]
            return f"{self.root}/log/slurmd-{node}.log" in files
        return False


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _processes() -> list[tuple[int, str, str]]:
    """(number, command line, environment) of the processes that we may look at."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (folder / "environ").read_bytes().replace(b"\0", b"\n").decode(errors="replace")
            found.append((int(folder.name), command, environment))
    return found


def _end(number: int) -> None:
    """SIGTERM, and SIGKILL after ten seconds; a zombie whose parent reaps late counts as gone."""
    os.kill(number, signal.SIGTERM)
    for _ in range(100):
        try:
            if Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return
        except OSError:
            return
        time.sleep(0.1)
    os.kill(number, signal.SIGKILL)
