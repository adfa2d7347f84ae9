"""A SLURM of one node on this machine: the real daemons, in a temporary folder, stopped and removed afterwards."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

CONFIG = Path("/etc/slurm/slurm.conf")
"""Jobs look for it here, since they start without SLURM_CONF; what it says of GPUs has to be beside it."""
GPUS = CONFIG.with_name("gres.conf")

PACKAGES = ("munge", "slurm-wlm")


def why_not() -> str:
    """What forbids a SLURM of our own here; empty if nothing does."""
    if os.geteuid() != 0 or not Path("/etc/debian_version").exists() or shutil.which("apt-get") is None:
        return "a SLURM is started by root on Debian alone"
    for path in (CONFIG, GPUS):
        if path.exists():
            return f"there is a SLURM here already ({path}), which is left alone"
    return ""


def install() -> None:
    """Install what is missing, from Debian; packages stay, as those of any other tool do."""
    if all(shutil.which(command) for command in ("munged", "slurmctld", "slurmd", "sbatch")):
        return
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # start no service
    for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        subprocess.run(["apt-get", "-qq", *command], env=environment, check=True, stdout=subprocess.DEVNULL)


@dataclass(frozen=True)
class Slurm:
    """A running SLURM whose only node is this machine."""

    folder: Path
    node: str

    def state_of_node(self) -> str:
        """Such as `idle`, `mixed`, `down`."""
        return _output("sinfo", "--noheader", "--Node", "--format=%T").strip()

    def jobs(self, *states: str) -> dict[str, str]:
        """Ids of jobs, those that have ended a while ago too, and their comments: the rule and its wildcards."""
        said = _output("squeue", "--noheader", f"--states={','.join(states) or 'all'}", "--format=%i|%k")
        return dict(line.split("|", 1) for line in said.splitlines())

    def details(self, job: str) -> dict[str, str]:
        """What SLURM knows of a job: `TimeLimit`, `MinMemoryNode`, `Requeue`…"""
        return dict(re.findall(r"(\w[\w:]*)=(\S*)", _output("scontrol", "show", "job", job)))

    def cancel(self, *jobs: str) -> None:
        """`scancel`."""
        subprocess.run(["scancel", *jobs], check=True)

    def cancel_all(self) -> None:
        """Cancel what a test left behind, and wait until it is gone."""
        self.cancel("--user=root")
        wait_for(lambda: not self.jobs("PENDING", "RUNNING", "COMPLETING"), "jobs are gone")

    def set_node(self, state: str) -> None:
        """`down`, which ends its jobs, or `resume`."""
        subprocess.run(["scontrol", "update", f"nodename={self.node}", f"state={state}", "reason=test"], check=True)


def wait_for(happens: Callable[[], object], what: str, seconds: float = 600) -> None:
    """Wait until `happens()`; an AssertionError that names `what` after so many seconds, so that no test hangs."""
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, f"after {seconds:.0f} s still not: {what}"
        time.sleep(0.1)


@contextmanager
def running(cpus: int = 2) -> Iterator[Slurm]:
    """Start munged, slurmctld and slurmd; at the end cancel all jobs, stop them, and remove all that they wrote."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="mufree-slurm-"))
        stack.callback(shutil.rmtree, folder)
        folder.chmod(0o755)  # munged's user must get in
        node = socket.gethostname()
        _start_munge(stack, folder)
        CONFIG.parent.mkdir(exist_ok=True)
        for path, text in ((CONFIG, _configuration(folder, node, cpus)), (GPUS, _two_false_gpus(node))):
            stack.callback(path.unlink)
            path.write_text(text)
        (folder / "state").mkdir()
        (folder / "spool").mkdir()
        _start(stack, folder, "slurmctld", "-D", "-i")
        wait_for(lambda: _succeeds("scontrol", "ping"), "slurmctld answers", 60)
        _start(stack, folder, "slurmd", "-D")
        slurm = Slurm(folder, node)
        stack.callback(slurm.cancel_all)
        wait_for(lambda: slurm.state_of_node() == "idle", "the node is idle", 60)
        yield slurm


def _start_munge(stack: ExitStack, folder: Path) -> None:
    own = folder / "munge"
    own.mkdir()
    (own / "key").write_bytes(secrets.token_bytes(1024))
    (own / "key").chmod(0o400)
    for path in (own, own / "key"):
        shutil.chown(path, "munge", "munge")
    files = [f"--{name}-file={own / name}" for name in ("key", "pid", "log", "seed")]
    _start(stack, folder, "munged", "--foreground", f"--socket={own / 'socket'}", *files, user="munge")
    wait_for((own / "socket").exists, "munged listens", 60)


def _configuration(folder: Path, node: str, cpus: int) -> str:
    """One node without accounting; what it writes is in `folder`.

    It is said to have 32 GB, whatever it has, so that what jobs ask for decides nothing here. A job that is put back waits
    until its credential has expired, two minutes by default.
    """
    controller, daemon = _free_ports(2)
    return f"""
ClusterName=mufree
SlurmctldHost={node}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmctldPort={controller}
SlurmdPort={daemon}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
ReturnToService=1
MinJobAge=7200
KillWait=10
MpiDefault=none
GresTypes=gpu
NodeName={node} CPUs={cpus} RealMemory=32000 Gres=gpu:2
PartitionName=main Nodes={node} Default=YES MaxTime=120 State=UP
"""


def _two_false_gpus(node: str) -> str:
    """Devices that are none: SLURM counts them and hands them out, and PyTorch finds nothing."""
    return f"NodeName={node} Name=gpu File=/dev/null\nNodeName={node} Name=gpu File=/dev/zero\n"


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def _start(stack: ExitStack, folder: Path, *command: str, user: str = "root") -> None:
    """Start a daemon in the foreground, as a child of the tests; it is stopped with them."""
    log = stack.enter_context((folder / f"{command[0]}.log").open("w"))
    own = {"user": user, "group": user, "extra_groups": []} if user != "root" else {}
    process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/", **own)
    stack.callback(_stop, process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
