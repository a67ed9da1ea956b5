"""A run's backends, decided once: by its YAML, by its own checkpoint, or by a race on the first rank.

A run that goes on computes with the kernels that it began with, so that its steps are bit for bit those of a
run that was never stopped.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from nemo_pi.checkpoint.manifest import read_manifest
from nemo_pi.checkpoint.retention import latest_checkpoint
from nemo_pi.config.kernels import is_for_this_machine
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.errors import NemoPiError
from nemo_pi.kernels.backends import JOBS, PLUG_INS, field_of
from nemo_pi.kernels.registry import AUTO
from nemo_pi.kernels.rotary import FUSED
from nemo_pi.model.backends import Workload, choose_backends, known_names, obstacles
from nemo_pi.model.options import BackendRequests
from nemo_pi.nemo.folders import RunFolders
from nemo_pi.nemo.stages import recorded_stage
from nemo_pi.parallel.launcher import is_global_zero

RECORD = "backends"
"""Where the manifest of a checkpoint keeps {job: name}."""
AS_IT_BEGAN = "as this run began"
_ANEW = (
    "%s: this run was trained with %s, which cannot run here (%s): chosen anew, so its next steps differ in "
    "rounding from those of a run that was never stopped"
)
_OVERRULED = (
    "%s: this run was trained with %s and goes on with %s, as its YAML says: its next steps differ in "
    "rounding from those of a run that was never stopped"
)
_log = logging.getLogger(__name__)


def settle_backends(run: ResolvedRun, folders: RunFolders) -> ResolvedRun:
    """The run with names in place of `auto`, where they are recorded; on the first rank everywhere.

    Other ranks learn of the rest when the engine is built (engine/agreement.py).

    Raises:
        BackendUnavailableError: a backend asked for by name cannot do the job here.
    """
    if not is_for_this_machine(run):
        return run
    work = run.engine.workload()
    requests = as_recorded(run.engine.build.backends, _recorded(run, folders), work)
    if is_global_zero():
        nodes = int(run.trainer.get("num_nodes") or 1)
        with _threads_of_training(max(1, run.parallel.world_size // nodes)):
            requests = choose_backends(work, requests).requests()
    build = replace(run.engine.build, backends=requests)
    return replace(run, engine=replace(run.engine, build=build))


def as_recorded(requests: BackendRequests, recorded: dict[str, str], work: Workload) -> BackendRequests:
    """The requests with the recorded names in place of `auto`, as far as those can run here.

    What cannot, and what the YAML overrules, is said: from here on the run is another one, bit for bit.
    """
    cannot, names = obstacles(work, requests), {}
    for job, name in recorded.items():
        asked = getattr(requests, job, None)
        reason = cannot.get((job, name)) if name in known_names(job) else _unknown(job, name)
        if asked == AUTO and reason is None:
            names[job] = name
        elif asked == AUTO:
            _log.warning(_ANEW, job, name, reason)
        elif asked not in (None, name, FUSED):
            _log.warning(_OVERRULED, job, name, asked)
    return replace(requests, **names, settled={**requests.settled, **dict.fromkeys(names, AS_IT_BEGAN)})


def _unknown(job: str, name: str) -> str:
    """Why a recorded name is none that `auto` takes."""
    if job not in JOBS:
        return "it is not known here"
    package = PLUG_INS.provider(name)
    if package is None:
        return f"it is not known here: {PLUG_INS.how_to_get()}"
    return f"it is of {package}, and auto takes none of another package: {field_of(job)}={name} does"


def _recorded(run: ResolvedRun, folders: RunFolders) -> dict[str, str]:
    """What the run's latest checkpoint was trained with; nothing where it does not say, or cannot be read.

    Nor where it is another stage's, whose shapes are others.
    """
    try:
        latest = latest_checkpoint(folders.checkpoints) if folders.resume else None
        if latest is None or recorded_stage(latest) != run.stage.number:
            return {}
        found = read_manifest(latest).get(RECORD, {})
    except NemoPiError:  # said where the run resumes
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(job): name for job, name in found.items() if isinstance(name, str)}


@contextmanager
def _threads_of_training(ranks_here: int) -> Iterator[None]:
    """As many threads as a rank will have: Lightning deals out the cores where OMP_NUM_THREADS is not set."""
    before = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks_here))
    try:
        yield
    finally:
        torch.set_num_threads(before)
