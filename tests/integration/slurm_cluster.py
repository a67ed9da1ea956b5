"""A real Slurm of two emulated nodes on this host, in one folder, for tests of launch scripts.

Debian's slurm-wlm, as root, without cgroups. The nodes share this machine; their GPUs are empty files. What
is not real: containers. A `srun` ahead of Slurm's on PATH writes down the container options, which only the
pyxis plugin knows, and hands the rest on.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.ports import bindable, free_ports

PACKAGES = ("slurm-wlm", "munge", "slurm-wlm-basic-plugins")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
GPUS_PER_NODE = 2

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/munge.sock
CredType=cred/munge
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
JobRequeue=1
KillWait=5
FirstJobId={first_job}
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=n1 NodeHostName={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=4000 Gres=gpu:{gpus}
NodeName=n2 NodeHostName={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=4000 Gres=gpu:{gpus}
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
"""
GRES = "AutoDetect=off\n" + "".join(
    f"NodeName={node} Name=gpu File={{folder}}/dev/gpu[0-{GPUS_PER_NODE - 1}]\n" for node in ("n1", "n2")
)

SRUN = """\
#!/bin/bash
kept=()
for word; do
    case $word in
        --container-*) echo "$word" >> {folder}/container ;;
        *) kept+=("$word") ;;
    esac
done
exec {srun} "${{kept[@]}}"
"""


def why_not() -> str | None:
    """Why Slurm cannot be started here; None where it can.

    On a CI machine (CI=true) that is Debian, and where we are root, missing packages are installed; nowhere
    else is anything installed.
    """
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root"
    if not missing():
        return None
    install = f"apt-get install {' '.join(PACKAGES)}"
    if os.environ.get("CI") != "true" or not Path("/etc/debian_version").exists():
        return f"no {', '.join(missing())} here; on Debian: {install}"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        "apt-get -qq update",
        install.replace("install", "install -qq -y --no-install-recommends"),
    ):
        done = subprocess.run(command.split(), env=environment, capture_output=True, text=True, timeout=300)
        if done.returncode:
            return f"`{command}` failed: {done.stderr.strip()[-300:]}"
    return f"no {', '.join(missing())} even after `{install}`" if missing() else None


def missing() -> list[str]:
    """Slurm's programs that are not on PATH (daemons live in sbin, which a user's PATH may lack)."""
    return [name for name in PROGRAMS if program(name) is None]


def program(name: str) -> str | None:
    """Full path of one of Slurm's programs."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


@dataclass
class SlurmCluster:
    """The running daemons and the environment in which Slurm's commands find them."""

    folder: Path
    """Short, because a socket's path is limited to 107 bytes."""

    def __post_init__(self) -> None:
        self.daemons: list[subprocess.Popen[bytes]] = []
        commands = self.folder / "bin"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            # The shim first, then this interpreter's own torchrun.
            "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin",
        }

    def start(self) -> None:
        """Write the configuration, start every daemon and wait until both nodes are idle."""
        for name in ("munge", "state", "spool/n1", "spool/n2", "log", "dev", "bin"):
            (self.folder / name).mkdir(parents=True)
        for number in range(GPUS_PER_NODE):
            (self.folder / "dev" / f"gpu{number}").touch()
        # The script makes its rendezvous port from the job's number.
        first_job = next(job for job in range(1 + secrets.randbelow(9000), 9999) if bindable(20000 + job))
        names = {"folder": self.folder, "host": socket.gethostname(), "gpus": GPUS_PER_NODE}
        conf = CONF.format(**names, ports=free_ports(3), first_job=first_job)
        (self.folder / "slurm.conf").write_text(conf)
        (self.folder / "gres.conf").write_text(GRES.format(**names))
        shim = self.folder / "bin" / "srun"
        shim.write_text(SRUN.format(folder=self.folder, srun=program("srun")))
        shim.chmod(0o755)
        self._start_munge()
        self._daemon("slurmctld", "-D", "-c")
        for node in ("n1", "n2"):
            self._daemon("slurmd", "-D", "-c", "-N", node)
        self.wait_for(
            lambda: self.command("sinfo", "-h", "-o", "%T %D").split() == ["idle", "2"], "idle nodes"
        )

    def _start_munge(self) -> None:
        munge = self.folder / "munge"
        key = munge / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        files = [f"--{kind}-file={munge / kind}" for kind in ("key", "pid", "log", "seed")]
        self._daemon("munged", "--foreground", "--force", f"--socket={munge / 'munge.sock'}", *files)
        self.wait_for((munge / "munge.sock").exists, "munge's socket")

    def _daemon(self, name: str, *options: str) -> None:
        path = program(name)
        assert path is not None, name
        with open(self.folder / "log" / f"{name}.out", "ab") as log:
            process = subprocess.Popen([path, *options], env=self.environment, stdout=log, stderr=log)
        self.daemons.append(process)

    def command(self, name: str, *options: str, environment: dict[str, str] | None = None) -> str:
        """Run one of Slurm's commands; what it printed: '' where it failed, as while daemons start."""
        merged = {**self.environment, **(environment or {})}
        return subprocess.run(
            [name, *options], env=merged, capture_output=True, text=True, timeout=60, cwd=self.folder
        ).stdout.strip()

    def job_field(self, job: str, field: str) -> str:
        """One field of `scontrol show job`, '' where there is none."""
        words = self.command("scontrol", "--oneliner", "show", "job", job).split()
        return next((word.partition("=")[2] for word in words if word.startswith(f"{field}=")), "")

    def wait_for(self, holds: object, what: str, seconds: float = 240) -> None:
        """Wait until the callable `holds` says so; otherwise fail with the end of every log."""
        assert callable(holds)
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                logs = [f"== {log.name}\n{log.read_text()[-1500:]}" for log in self.folder.glob("log/*")]
                raise AssertionError(f"waited {seconds} s for {what}\n" + "\n".join(logs))
            time.sleep(0.2)

    def stop(self) -> None:
        """End every job and wait for it, then the daemons, last started first."""
        for state in ("PENDING", "RUNNING"):
            self.command("scancel", f"--state={state}")
        end = time.monotonic() + 30  # Slurm itself kills after KillWait
        while self.command("squeue", "--noheader") and time.monotonic() < end:
            time.sleep(0.5)
        for process in reversed(self.daemons):
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
