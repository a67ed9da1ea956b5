"""What a SLURM job that trains in a container needs to know, checked before a scheduler sees it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from nemo_pi.errors import ConfigError

# minutes | minutes:seconds | hours:minutes:seconds | days-hours[:minutes[:seconds]], as sbatch reads them
_TIME = re.compile(r"\d+(:[0-5]\d){0,2}|\d+-\d{1,2}(:[0-5]\d){0,2}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_MOUNT = re.compile(r"[^:,\s]+:/[^:,\s]*(:[a-z+]+)?")
_OVERRIDE = re.compile(
    r"(\+{0,2}|~)[A-Za-z0-9_][A-Za-z0-9_./@-]*(=.*)?|--?[A-Za-z][A-Za-z0-9-]*(=.*)?", re.DOTALL
)


@dataclass(frozen=True)
class SlurmJob:
    """One training job on SLURM: nodes, time, container and the entry point's arguments.

    Raises ConfigError on creation where a value cannot be meant.
    """

    job_name: str = "nemo_pi"
    """Name in the queue and of the log file."""
    nodes: int = 2
    """Nodes to allocate; one launcher runs on each."""
    gpus_per_node: int = 8
    """GPUs, and so ranks, on each node."""
    cpus_per_node: int | None = None
    """CPU cores for the launcher of a node and all its ranks; None leaves it to the partition."""
    time: str = "04:00:00"
    """Time limit as sbatch writes it: minutes, hours:minutes:seconds or days-hours:minutes:seconds."""
    partition: str | None = None
    """Partition; None takes the cluster's default."""
    account: str | None = None
    """Account to charge; None takes the user's default."""
    exclusive: bool = True
    """Whether the job has its nodes, and all their memory, to itself."""
    signal_lead_seconds: int = 300
    """Seconds before the time limit at which SIGUSR1 tells the ranks to write their last checkpoint and stop;
    the save must fit into them. 0 sends no signal."""
    requeue: bool = True
    """Whether the job returns to the queue after that signal, or when a node fails, and resumes."""
    max_requeues: int = 50
    """After so many restarts a signalled job does not return to the queue (a run that gets nowhere ends)."""
    container_image: str = "/shared/images/nemo_pi.sqsh"
    """Image for pyxis: a squashfs file that every node sees, or a registry address."""
    container_mounts: tuple[str, ...] = ("/shared/data:/data", "/shared/results:/results")
    """Mounts as SOURCE:/TARGET or SOURCE:/TARGET:flags."""
    container_workdir: str = "/opt/nemo_pi"
    """Where the repository lies in the image."""
    entry_point: str = "examples/extend_context.py"
    """Script to run, relative to container_workdir."""
    results_folder: str = "/results"
    """Where runs write (exp_manager.exp_dir); under a mount's target, so that it outlives the container."""
    arguments: tuple[str, ...] = ()
    """Hydra overrides and flags for the entry point; those given to sbatch come after them and win."""
    log_file: str = "%x-%j.out"
    """Output of every rank, in sbatch's placeholders (%x job name, %j job id); appended to on a restart."""

    def __post_init__(self) -> None:
        for field in ("nodes", "gpus_per_node", "cpus_per_node", "max_requeues"):
            self._check_count(field)
        for field in ("job_name", "partition", "account"):
            value = getattr(self, field)
            _require(value is None or _matches(_NAME, value), field, "letters, digits, . _ -", value)
        _require(_matches(_TIME, self.time), "time", "a limit that sbatch reads, like 04:00:00", self.time)
        self._check_lead()
        for field in ("container_image", "entry_point", "log_file"):
            value = getattr(self, field)
            _require(bool(value) and not re.search(r"\s", value), field, "one word, no blanks", value)
        _require(
            self.container_workdir.startswith("/"), "container_workdir", "/ first", self.container_workdir
        )
        for mount in self.container_mounts:
            _require(_matches(_MOUNT, mount), "container_mounts", "SOURCE:/TARGET[:flags] each", mount)
        for argument in self.arguments:
            _require(
                _matches(_OVERRIDE, argument), "arguments", "Hydra's key=value, or a --flag, each", argument
            )
        self._check_results()

    def _check_count(self, field: str) -> None:
        value = getattr(self, field)
        if value is None and field == "cpus_per_node":
            return
        least = 0 if field == "max_requeues" else 1
        whole = isinstance(value, int) and not isinstance(value, bool)
        _require(whole and value >= least, field, f"a whole number, {least} or more", value)

    def _check_lead(self) -> None:
        # sbatch itself refuses more than 65,535 seconds.
        lead, limit = self.signal_lead_seconds, seconds_of(self.time)
        whole = isinstance(lead, int) and not isinstance(lead, bool) and 0 <= lead <= 65535
        _require(whole, "signal_lead_seconds", "a whole number of seconds, 0 to 65535", lead)
        _require(lead < limit, "signal_lead_seconds", f"less than the time limit ({limit} s)", lead)

    def _check_results(self) -> None:
        folder = PurePosixPath(self.results_folder)
        targets = [mount.split(":")[1] for mount in self.container_mounts]
        kept = any(folder.is_relative_to(target) for target in targets)
        required = f"a folder under a mount's target ({', '.join(targets) or 'none given'})"
        _require(kept, "results_folder", required, self.results_folder)


def seconds_of(time: str) -> int:
    """Seconds of a time limit in sbatch's notation.

    Args:
        time: minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes[:seconds].
    """
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:  # hours come first
        hours, minutes, seconds = [*parts, 0, 0][:3]
    elif len(parts) < 3:  # minutes come first
        hours, minutes, seconds = 0, parts[0], [*parts, 0][1]
    else:
        hours, minutes, seconds = parts
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _require(holds: bool, field: str, required: str, given: object) -> None:
    if not holds:
        raise ConfigError(f"SlurmJob.{field}", required=required, given=repr(given), fix=f"set {field} so")
