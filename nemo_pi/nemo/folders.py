"""Where a run writes, and how often, from exp_manager's keys."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.files import real_folder
from nemo_pi.checkpoint.lock import lock_beside, lock_inside, sole_writer
from nemo_pi.config.foreign_keys import EXP_MANAGER
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.parallel.launcher import is_global_zero

# Keys that are read here or by the trainer instead. NeMo's timer ends a run by an exception, past every
# callback that saves; Lightning's lets the step's callbacks run.
_MAKES_A_LOGGER = re.compile(r"create_\w+_logger")
_OURS = (
    "exp_dir",
    "name",
    "version",
    "use_datetime_version",
    "checkpoint_callback_params",
    "max_time_per_run",
)


@dataclass(frozen=True)
class RunFolders:
    """Folders of a run and what exp_manager says of checkpoints."""

    logs: Path
    """Logs, TensorBoard files and the command line."""
    checkpoints: Path
    """Distributed checkpoints, one folder a step."""
    resume: bool
    """Whether the run goes on from its latest checkpoint."""
    save_every: int
    """Optimizer steps between checkpoints; 0 saves at the end only."""
    keep: int
    """Newest checkpoints to keep; 0 keeps all."""

    def exp_manager_settings(self, given: Mapping[str, Any], *, loggers: bool = True) -> dict[str, Any]:
        """exp_manager's keys, its own checkpoints and resumption switched off: ours take their place.

        NeMo's look for single-file .ckpt checkpoints and would warn that training starts from scratch.

        Args:
            given: the section.
            loggers: whether it makes loggers; not where a trainer has those of the stage before.
        """
        settings = dict(given)
        for ours in _OURS:
            settings.pop(ours, None)
        settings.update(
            explicit_log_dir=str(self.logs),
            create_checkpoint_callback=False,
            create_preemption_callback=False,
            resume_if_exists=False,
            resume_ignore_no_checkpoint=True,
        )
        if not loggers:
            settings.update({key: False for key in EXP_MANAGER if _MAKES_A_LOGGER.fullmatch(key)})
        return settings


@contextmanager
def sole_writer_of(stages: Sequence[ResolvedRun], folders: RunFolders) -> Iterator[None]:
    """Holds what a run's stages write to, on its first rank, as long as the `with` block lasts.

    Raises:
        CheckpointError: another run writes there, with its process and machine.
    """
    with ExitStack() as held:
        if is_global_zero():
            what = f"the run {stages[0].name}"
            for folder, fix in (
                (folders.logs, "give this run another name, name=..."),
                (folders.checkpoints, "another exp_manager.checkpoint_callback_params.dirpath"),
            ):
                held.enter_context(sole_writer(lock_inside(folder), folder, what, fix))
            exports = [(key, getattr(run.export, key)) for run in stages for key in ("hf_path", "peft_path")]
            for key, path in exports:
                if path is None:
                    continue
                export = real_folder(path)
                fix = f"another folder, model.export.{key}=..."
                held.enter_context(sole_writer(lock_beside(export), export, what, fix))
        yield


def run_folders(run: ResolvedRun) -> RunFolders:
    """Folders as NeMo lays them out: exp_dir/name, with a dated version below unless the run resumes."""
    given = run.exp_manager
    params = given.get("checkpoint_callback_params") or {}
    resume = bool(given.get("resume_if_exists", False))
    logs = _log_folder(given, run.name, resume)
    checkpoints = _path(params["dirpath"]) if params.get("dirpath") else logs / "checkpoints"
    top_k = 3 if params.get("save_top_k") is None else params["save_top_k"]
    saves = given.get("create_checkpoint_callback", True)
    return RunFolders(
        logs=logs,
        checkpoints=checkpoints,
        resume=resume,
        save_every=int(params.get("every_n_train_steps") or 0) if saves else 0,
        # NeMo keeps the best k and the last; ranked by step, the last is among the best.
        keep=0 if top_k < 0 else max(1, int(top_k)),
    )


def _log_folder(given: Mapping[str, Any], name: str, resume: bool) -> Path:
    if given.get("explicit_log_dir"):
        return _path(given["explicit_log_dir"])
    base = _path(given.get("exp_dir") or "nemo_experiments") / (given.get("name") or name)
    if given.get("version"):
        return base / str(given["version"])
    if resume or not given.get("use_datetime_version", True):
        return base
    return base / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def _path(given: str) -> Path:
    return Path(given).expanduser()
