"""The same answers from several ranks, which are started for it: one launch for each layout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.parallel import groups, launcher
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.verification.answers import Answers, answer
from nemo_pi.verification.probes import Probes

_JOB, _PROBES, _ANSWERS, _REST = "job.json", "probes.safetensors", "answers.safetensors", "answers.json"
# A rank's own launcher variables must not reach the launcher that is started here.
_LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def answer_on_ranks(
    checkpoint: Path, layout: ParallelLayout, probes: Probes, *, dtype: torch.dtype, keep: bool
) -> Answers:
    """`answer` by as many processes as the layout has ranks, on this machine.

    Raises:
        RuntimeError: a rank failed; the end of what it said is in the message.
    """
    with tempfile.TemporaryDirectory(prefix="nemo-pi-verify-") as name:
        folder = Path(name)
        _write_job(folder, checkpoint, layout, probes, dtype, keep)
        # torchrun ends the other ranks where one fails, and finds a free port.
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={layout.world_size}", "-m", __name__, str(folder)]
        kept = {key: value for key, value in os.environ.items() if key not in _LAUNCHER_VARIABLES}
        done = subprocess.run(command, env=kept, capture_output=True, text=True)
        if done.returncode != 0:
            said = "\n".join(done.stderr.splitlines()[-40:])
            raise RuntimeError(f"ranks of {layout.describe()} ended with status {done.returncode}:\n{said}")
        return _read_answers(folder)


def answer_job(folder: Path) -> None:
    """What each rank does: reads the job in `folder`; the first rank writes the answers there."""
    job = json.loads((folder / _JOB).read_text(encoding="utf-8"))
    stored = load_file(folder / _PROBES)
    probes = Probes(
        names=tuple(job["names"]),
        tokens_BS=stored["tokens"],
        positions_BS=stored["positions"],
        documents=tuple(job["documents"]),
        lengths=tuple(job["lengths"]),
    )
    answers = answer(
        read_summary(job["checkpoint"]),
        ParallelLayout(**job["layout"]),
        probes,
        dtype=getattr(torch, job["dtype"]),
        keep=job["keep"],
        export_to=folder / "exported",
    )
    if launcher.is_global_zero():
        _write_answers(folder, answers)
    groups.destroy()


def _write_job(
    folder: Path, checkpoint: Path, layout: ParallelLayout, probes: Probes, dtype: torch.dtype, keep: bool
) -> None:
    job = {
        "checkpoint": str(checkpoint.absolute()),
        "layout": asdict(layout),
        "dtype": str(dtype).removeprefix("torch."),
        "keep": keep,
        "names": probes.names,
        "documents": probes.documents,
        "lengths": probes.lengths,
    }
    (folder / _JOB).write_text(json.dumps(job), encoding="utf-8")
    save_file({"tokens": probes.tokens_BS, "positions": probes.positions_BS}, folder / _PROBES)


def _write_answers(folder: Path, answers: Answers) -> None:
    values = {field.name: getattr(answers, field.name) for field in fields(answers)}
    tensors = {name: value.contiguous() for name, value in values.items() if isinstance(value, torch.Tensor)}
    save_file(tensors, folder / _ANSWERS)
    rest = {name: value for name, value in values.items() if name not in tensors}
    (folder / _REST).write_text(json.dumps(rest), encoding="utf-8")


def _read_answers(folder: Path) -> Answers:
    rest: dict[str, Any] = json.loads((folder / _REST).read_text(encoding="utf-8"))
    return Answers(**rest | {"unlike": tuple(rest["unlike"])} | load_file(folder / _ANSWERS))


if __name__ == "__main__":
    answer_job(Path(sys.argv[1]))
