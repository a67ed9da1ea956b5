"""Which of several backends is the fastest on this CPU: measured for some milliseconds, not guessed.

Neither a processor's vendor nor its flags tell: of two that have AVX-512, one computes it on 256-bit units.
Candidates take turns on a piece of the job (kernels/trials.py); the best round of each counts. One that
fails, or computes something else than PyTorch's own, is passed over. Verdicts are kept, in this process
and on disk (kernels/verdicts.py); one that other programs disturbed is not kept on disk. NEMO_PI_RACE=0
turns races off: then `auto` takes backends as they are listed, which is the same on every machine.
"""

from __future__ import annotations

import glob
import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nemo_pi.kernels import verdicts
from nemo_pi.kernels.capability import RotaryNeeds
from nemo_pi.kernels.needs import Needs
from nemo_pi.kernels.registry import Measured
from nemo_pi.kernels.trials import Trial, trial_of

SWITCH = "NEMO_PI_RACE"
"""Environment variable; 0 turns races off for a process."""
_log = logging.getLogger(__name__)
# Rounds at most, and seconds after which no further one begins. Two are made even so, if the first calls
# took no longer than that many seconds together: they do unless others keep the processor busy.
_MOST, _PATIENCE, _QUICK = 10, 0.05, 0.25
# Who takes this many times as long as the best after a round is out. A first call puts nobody out: it brings
# a beginning of its own (what is compiled, memory that is new).
_BEHIND = 3
# Part of the largest value by which results may differ: rounding of fp32 sums, and far below any mistake.
_TOLERANCE = 1e-2
# Part of a race's time, for each thread, that threads may have waited for a processor: on an idle machine it
# is under a hundredth, beside one other busy program a third and more.
_WAITING = 0.05
_PLAIN = ("sdpa", "torch")
"""PyTorch's own, by which others are judged."""


def racing(job: str, needs: Needs | RotaryNeeds) -> Callable[[Sequence[Any]], Measured] | None:
    """What times candidates of a job, for the registry's `measure`; None where nothing is to be timed."""
    wanted = os.environ.get(SWITCH, "1") != "0" and needs.device_type == "cpu" and needs.tokens > 0
    return partial(_measured, job, needs) if wanted else None


def _measured(job: str, needs: Needs | RotaryNeeds, candidates: Sequence[Any]) -> Measured:
    """Seconds of each candidate, from an earlier race or a new one."""
    names = [candidate.name for candidate in candidates]
    key = verdicts.key(job, needs.key(), names)
    found = verdicts.find(key, names)
    if found is None:
        waited, started = waiting(), time.perf_counter()
        found = race(job, needs, candidates)
        waited, took = waiting() - waited, time.perf_counter() - started
        quiet = waited <= _WAITING * took * torch.get_num_threads()
        if not quiet:
            _log.info("%s: other programs disturbed the race; the next run races again", job)
        # Nothing is kept of a race in which all failed: what stopped them may be gone next time.
        if found:
            verdicts.keep(key, found, on_disk=quiet)
    return found


def waiting() -> float:
    """Seconds that this process's threads waited for a processor; 0 where nobody counts them."""
    total = 0
    for path in glob.glob("/proc/self/task/*/schedstat"):
        try:
            with open(path, encoding="ascii") as file:
                total += int(file.read().split()[1])  # running, waiting (both in ns), times on a processor
        except (OSError, ValueError, IndexError):  # the thread has ended, or the kernel keeps no such counts
            continue
    return total / 1e9


# A plan may be made, and a model built, where gradients are off; trials run backward, too.
@torch.inference_mode(False)
@torch.enable_grad()
def race(job: str, needs: Needs | RotaryNeeds, candidates: Sequence[Any]) -> dict[str, float]:
    """Seconds of each candidate's best call; those that failed are left out."""
    started = time.perf_counter()
    trials: dict[str, Trial] = {}
    results: dict[str, Tensor] = {}
    best: dict[str, float] = {}
    for candidate in candidates:
        try:
            trial = trial_of(job, candidate, needs)
            before = time.perf_counter()
            result = trial().detach()
            best[candidate.name] = time.perf_counter() - before
            # Cloned: some trials return a buffer that their next call writes over.
            results[candidate.name] = result.clone()
            trials[candidate.name] = trial
        except Exception as error:  # whatever it is: the others can do the job
            _pass_over(job, candidate.name, f"{type(error).__name__}: {error}")
    plain = next((results[name] for name in _PLAIN if name in results), None)
    for name, result in results.items():
        if plain is not None and not _agree(result, plain):
            _pass_over(job, name, f"its result is not {' or '.join(_PLAIN)}'s")
            del trials[name], best[name]
    ready = time.perf_counter()
    fewest = 2 if ready - started < _QUICK else 1
    for number in range(_MOST):
        racers = [name for name in trials if number == 0 or best[name] <= _BEHIND * min(best.values())]
        if len(racers) < 2 or (number >= fewest and time.perf_counter() - ready > _PATIENCE):
            break
        # In turns: when another program takes the processor for a while, it slows all of them down alike.
        for name in racers:
            before = time.perf_counter()
            trials[name]()
            best[name] = min(best[name], time.perf_counter() - before)
    return best


def _agree(result: Tensor, plain: Tensor) -> bool:
    if result.shape != plain.shape or not bool(result.isfinite().all()):
        return False
    return bool((result - plain).abs().max() <= _TOLERANCE * plain.abs().max())


def _pass_over(job: str, name: str, reason: str) -> None:
    _log.warning("model.%s_backend: auto passes over %s, which failed: %s", job, name, reason)
