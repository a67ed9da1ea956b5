"""Runs that `--multirun` makes of one command: each in a folder of its own, a table to compare them."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nemo_pi.errors import ConfigError, NemoPiError
from nemo_pi.parallel import launcher

# What names the folders that a run writes; a sweep over one of them parts its runs already.
_FOLDERS = ("name", "exp_manager.name", "exp_manager.version", "exp_manager.explicit_log_dir")
_EXPORTS = ("model.export.hf_path", "model.export.peft_path")
_DIRPATH = "exp_manager.checkpoint_callback_params.dirpath"
_EXPORT_NAMES = tuple(key.rpartition(".")[2] for key in _EXPORTS)
_LONGEST = 120


@dataclass
class Job:
    """One run of a multirun, and how it went."""

    name: str
    """What it was given, such as `seed=1,lr=0.0002`; the name of its folder."""
    seconds: float = 0.0
    """It took."""
    result: Any = None
    """What the task returned; None after a dry run or an error."""
    error: NemoPiError | None = None
    """Why it did not come to its end."""

    @property
    def status(self) -> int:
        """Exit status that it alone would have had."""
        return 2 if self.error is not None else getattr(self.result, "status", 0)


@dataclass
class Sweep:
    """The runs of one command.

    Args:
        keys: keys that have several values.
    """

    keys: tuple[str, ...]
    jobs: list[Job] = field(default_factory=list)

    def run(self, task: Callable[[DictConfig], Any], cfg: DictConfig, overrides: Sequence[str]) -> None:
        """Runs one job and remembers how it went; one that fails leaves the next ones alone.

        Args:
            task: what runs.
            cfg: of this job.
            overrides: of this job, `key=value` each.
        """
        given = dict(word.lstrip("+").split("=", 1) for word in overrides if "=" in word)
        job = Job(job_name({key: given[key] for key in self.keys if key in given}))
        self.jobs.append(job)
        started = time.monotonic()
        if launcher.is_global_zero():
            print(f"\nRun {len(self.jobs)}: {job.name}", flush=True)
        try:
            _check_ranks(cfg)
            job.result = task(own_folders(cfg, job.name, self.keys))
        except NemoPiError as error:
            job.error = error
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            job.seconds = time.monotonic() - started
            _take_groups_down()

    @property
    def status(self) -> int:
        """Exit status of the command: the first that is not 0."""
        return next((job.status for job in self.jobs if job.status), 0)

    def table(self) -> str:
        """All runs side by side."""
        names = list(dict.fromkeys(name for job in self.jobs for name in _metrics(job)))
        header = ["run", "steps", *(_SHORT.get(name, name) for name in names), "minutes", "folder"]
        rows = [header, *(_row(job, names) for job in self.jobs)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        return "\n".join(line.rstrip() for line in lines)


_SHORT = {"reduced_train_loss": "train loss", "val_loss": "val loss"}


def _metrics(job: Job) -> Mapping[str, float]:
    metrics = getattr(job.result, "metrics", {})
    return {name: metrics[name] for name in _SHORT if name in metrics}


def _row(job: Job, names: Sequence[str]) -> list[str]:
    metrics = _metrics(job)
    steps, place = getattr(job.result, "global_step", None), getattr(job.result, "folders", None)
    where = "" if place is None else str(place.logs)
    if job.error is not None:
        where = f"failed: {job.error.field}"[:80]
    return [
        job.name,
        "–" if steps is None else f"{steps:,}",
        *(f"{metrics[name]:.4f}" if name in metrics else "–" for name in names),
        f"{job.seconds / 60:.1f}",
        where or "–",
    ]


def job_name(values: Mapping[str, str]) -> str:
    """What sets a run apart, as a folder's name: `seed=1,lr=0.0002`.

    Args:
        values: key → value of what is swept over, in their order.
    """
    short = [key.rpartition(".")[2] for key in values]
    keys = [key if short.count(last) > 1 else last for key, last in zip(values, short, strict=True)]
    pairs = zip(keys, values.values(), strict=True)
    name = ",".join(re.sub(r"[^\w.=+-]+", "_", f"{key}={value}") for key, value in pairs)
    return name[:_LONGEST] or "run"


def own_folders(cfg: DictConfig, name: str, swept: Sequence[str]) -> DictConfig:
    """The configuration with a folder of this run's own below each that it would write.

    Args:
        cfg: of the run.
        name: of the run's folder.
        swept: keys that differ from run to run already.
    """
    cfg = cfg.copy()
    given = OmegaConf.select(cfg, "exp_manager") or {}
    inside = "exp_manager.explicit_log_dir" if given.get("explicit_log_dir") else "exp_manager.version"
    places = [] if {*_FOLDERS, "exp_manager.exp_dir"} & set(swept) else [inside]
    places += [key for key in (*_EXPORTS, _DIRPATH) if OmegaConf.select(cfg, key) and key not in swept]
    for key in places:
        before = OmegaConf.select(cfg, key)
        value = name if not before else os.path.join(str(before), name)
        OmegaConf.update(cfg, key, value, force_add=True)
    for list_ in ("stages", "model.stages"):
        for stage in OmegaConf.select(cfg, list_) or ():
            _own_exports(stage, name)
    return cfg


def _own_exports(section: Any, name: str) -> None:
    """The same for what a stage exports, whichever way its keys are spelled."""
    if not OmegaConf.is_dict(section):
        return
    for key in section:
        value = section[key]
        if str(key).endswith(_EXPORT_NAMES) and isinstance(value, str):
            section[key] = os.path.join(value, name)
        else:
            _own_exports(value, name)


def _check_ranks(cfg: DictConfig) -> None:
    """Refuses ranks that each run would start for itself: they would start the whole command again."""
    from nemo_pi.config.trainer_keys import world_size_of

    trainer = OmegaConf.select(cfg, "trainer")
    if "WORLD_SIZE" in os.environ or not OmegaConf.is_dict(trainer) or cfg.get("dry_run"):
        return
    if (ranks := world_size_of(trainer)) > 1:
        raise ConfigError(
            "--multirun",
            required="one rank, or ranks of a launcher",
            given=f"{ranks} without one",
            fix=f"torchrun --nproc-per-node {ranks} examples/extend_context.py --multirun ...",
        )


def _take_groups_down() -> None:
    """The next run makes groups of its own; nothing to do where no run got so far."""
    from torch import distributed as dist

    if dist.is_initialized():
        from nemo_pi.parallel import groups

        groups.destroy()
