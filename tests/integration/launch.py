"""Starts examples/extend_context.py on several ranks, in three ways.

`warm`: ranks are forked from an interpreter that has imported everything (importing costs each rank some
ten seconds, a run a second or two). A rank sees the environment torchrun would give it and executes the
script's file as `__main__`. `torchrun`: torchrun itself. `lightning`: one plain process, whose trainer
starts the others.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
EXTEND = ROOT / "examples" / "extend_context.py"
EVALUATE = ROOT / "examples" / "evaluate.py"
GENERATE = ROOT / "examples" / "generate.py"
PREPROCESS = ROOT / "examples" / "preprocess_data.py"
TIMEOUT_SECONDS = 300
_START_METHOD = "forkserver"
Fault = tuple[Any, ...]
"""Name of a function of faults.py, then its arguments."""

# What examples/ need; imported once, before ranks are forked.
_PRELOAD = [
    "nemo_pi.nemo.training",
    "nemo_pi.cli.preprocess",
    "nemo_pi.data.writer",
    "nemo_pi.cli.evaluate",
    "nemo_pi.cli.generate",
    "torch.utils.tensorboard",
    "transformers.models.llama.modeling_llama",
]
# What pytest's own process may have inherited from a launcher; a run here must not see it.
_LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Finished:
    """How a launch ended."""

    statuses: tuple[int, ...]
    """Exit status of each rank (warm), or of the launcher; minus the signal's number where one ended it."""
    out: str
    """Standard output of all ranks."""
    err: str
    """Standard error of all ranks."""

    def check(self) -> None:
        """Fails with the end of what the ranks said, unless all exited with 0."""
        assert not any(self.statuses), (
            f"exit statuses {self.statuses}\n{self.out[-2000:]}\n{self.err[-4000:]}"
        )


def launch(
    arguments: Sequence[str],
    *,
    folder: Path,
    ranks: int = 1,
    launcher: str = "warm",
    fault: Fault | None = None,
    script: Path = EXTEND,
) -> Finished:
    """Runs `script` and waits for its end.

    Args:
        arguments: its command line.
        folder: its working folder; made if need be. Output of the ranks goes beside it.
        ranks: processes.
        launcher: warm, torchrun or lightning.
        fault: only warm: a function of faults.py, and its arguments, that every rank calls before the script.
        script: what to execute.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if launcher == "warm":
        return _warm(_execute, (str(script), list(arguments), fault), folder, ranks)
    assert fault is None, "faults are planted in forked ranks only"
    command = [sys.executable]
    if launcher == "torchrun":
        command += [
            "-m",
            "torch.distributed.run",
            f"--nproc-per-node={ranks}",
            f"--master-port={free_port()}",
        ]
    command += [str(script), *arguments]
    environment = {key: value for key, value in os.environ.items() if key not in _LAUNCHER_VARIABLES}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    return Finished((done.returncode,), done.stdout, done.stderr)


def call(function: Callable[..., Any], *arguments: Any, folder: Path, ranks: int = 1) -> Finished:
    """Calls a function of an importable module in processes with everything imported."""
    folder.mkdir(parents=True, exist_ok=True)
    return _warm(function, arguments, folder, ranks)


# ---- forked ranks ---------------------------------------------------------------------------------------


def _warm(function: Callable[..., Any], arguments: tuple[Any, ...], folder: Path, ranks: int) -> Finished:
    context = multiprocessing.get_context(_START_METHOD)
    if _START_METHOD == "forkserver":
        context.set_forkserver_preload(_PRELOAD)
    port = free_port()
    environments = [_rank_environment(rank, ranks, port) for rank in range(ranks)]
    processes: list[BaseProcess] = []
    with _root_importable():
        for rank, environment in enumerate(environments):
            process = context.Process(target=_rank, args=(function, arguments, environment, folder, rank))
            process.start()
            processes.append(process)
    try:
        for process in processes:
            process.join(TIMEOUT_SECONDS)
        late = [rank for rank, process in enumerate(processes) if process.is_alive()]
        out, err = (_texts(folder, ranks, kind) for kind in ("out", "err"))
        assert not late, f"ranks {late} did not end\n{out[-2000:]}\n{err[-4000:]}"
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
    return Finished(tuple(int(process.exitcode or 0) for process in processes), out, err)


@contextmanager
def _root_importable() -> Iterator[None]:
    """The fork server reads PYTHONPATH when it starts, with the first process."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([before] if before else [])])
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _rank_environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    if ranks == 1:
        return {}
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "none",
        # Rank 0 keeps the rendezvous store; under torchrun its agent does.
        "TORCHELASTIC_USE_AGENT_STORE": "False",
    }


def _log(folder: Path, rank: int, kind: str) -> Path:
    return folder.parent / f"{folder.name}.rank{rank}.{kind}"


def _texts(folder: Path, ranks: int, kind: str) -> str:
    return "".join(_log(folder, rank, kind).read_text(errors="replace") for rank in range(ranks))


def _rank(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    environment: dict[str, str],
    folder: Path,
    rank: int,
) -> None:
    for descriptor, kind, stream in ((1, "out", "stdout"), (2, "err", "stderr")):
        os.dup2(os.open(_log(folder, rank, kind), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), descriptor)
        setattr(sys, stream, os.fdopen(descriptor, "w", buffering=1, closefd=False))
    for variable in _LAUNCHER_VARIABLES:
        os.environ.pop(variable, None)
    os.environ.update(environment)
    os.chdir(folder)
    from lightning_utilities.core.rank_zero import rank_zero_only

    rank_zero_only.rank = rank  # read from the environment at import, which lies behind us
    function(*arguments)


def _execute(script: str, arguments: list[str], fault: Fault | None) -> None:
    sys.argv = [script, *arguments]
    if fault is not None:
        name, *values = fault
        getattr(importlib.import_module("tests.integration.faults"), name)(*values)
    runpy.run_path(script, run_name="__main__")
