"""How fast this machine is, from a minute's probe, and what the work costs at that speed.

Reading S tokens costs a·S + b·S²: products with weights, and attention. Two lengths give a and b.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from evidence.real.scorer import best_dtype, fastest_scorer
from evidence.real.sizes import SAMPLE
from nemo_pi.advice.speed import Speed as ReadingSpeed
from nemo_pi.evaluation.generation import GenerationRequest
from nemo_pi.machine import cpuinfo
from nemo_pi.units import plural

SHORT, LONG = 1024, 4096
"""Tokens of the probe's two texts."""


@dataclass(frozen=True)
class Speed(ReadingSpeed):
    """Seconds of this machine, for reading and for training."""

    per_step: float
    """Of an optimizer step with one sample."""
    threads: int
    """That torch computes with."""

    def reading(self, tokens: int) -> float:
        """Seconds to read one text."""
        return self.seconds([(1, tokens)])

    def writing(self, tokens: int, length: int) -> float:
        """Seconds to generate tokens at the end of a text: each takes as long as about 20 that are read."""
        return tokens * (20 * self.per_token + self.per_pair * length)

    def on(self, threads: int) -> Speed:
        """With another number of threads, as if work were divided evenly."""
        times = self.threads / threads
        return Speed(self.per_token * times, self.per_pair * times, self.per_step * times, threads)

    def describe(self) -> str:
        """Say it in words."""
        return f"On {plural(self.threads, 'thread')}: {self.per_step:.1f} s a training step, " + ", ".join(
            f"{self.reading(n):.0f} s to read {n:,} tokens" for n in (8192, 16384, 32768)
        )


ASSUMED = {
    torch.float32: (
        Speed(per_token=2.65e-3, per_pair=3.62e-7, per_step=4.94, threads=1),
        "a core of an AMD EPYC (Zen 5) beside other work, read in fp32",
    ),
    torch.bfloat16: (
        Speed(per_token=8.7e-4, per_pair=1.97e-7, per_step=4.2, threads=2),
        "two cores of an Intel Xeon with AMX beside other work, read in bf16",
    ),
}
"""What `best_dtype` is → a speed that was probed in November 2026, and where."""
MOST_ASSUMED_THREADS = 2
"""More are taken for so many: how much faster they are has not been measured."""


def fit(short_seconds: float, long_seconds: float, step_seconds: float, threads: int) -> Speed:
    """The speed that two measured lengths mean."""
    read = ReadingSpeed.through((SHORT, LONG), (short_seconds / SHORT, long_seconds / LONG))
    return Speed(read.per_token, read.per_pair, step_seconds, threads)


def probe(model: Path, precision: str) -> Speed:
    """Measure on the model itself: reading by what will read, training by transformers."""
    short, long = _reading(model)
    return fit(short, long, _step(model, precision), torch.get_num_threads())


def _reading(model: Path) -> list[float]:
    scorer = fastest_scorer(model, "probe")

    def read(tokens: int) -> None:
        with torch.inference_mode():
            scorer.generate([range(tokens)], GenerationRequest(max_new_tokens=1))

    read(64)
    return [_timed(partial(read, tokens)) for tokens in (SHORT, LONG)]


def _step(model: Path, precision: str) -> float:
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=True)
    ids_BS = torch.arange(SAMPLE)[None]

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision != "32-true"):
            network(input_ids=ids_BS, labels=ids_BS).loss.backward()

    return _timed(step)


def known_speed(file: Path) -> Speed | None:
    """From an earlier probe with as many threads; None without one."""
    if not file.exists():
        return None
    speed = Speed(**json.loads(file.read_text(encoding="utf-8")))
    return speed if speed.threads == torch.get_num_threads() else None


def probed_speed(file: Path, model: Path, precision: str) -> Speed:
    """From an earlier probe with as many threads, or from a new one, which is kept."""
    speed = known_speed(file)
    if speed is None:
        speed = probe(model, precision)
        file.write_text(json.dumps(asdict(speed)) + "\n", encoding="utf-8")
    return speed


def assumed_speed() -> tuple[Speed, str]:
    """One that was probed elsewhere, and where, for a plan before this machine's own can be probed."""
    speed, where = ASSUMED[best_dtype()]
    threads = min(torch.get_num_threads(), MOST_ASSUMED_THREADS)
    if threads != speed.threads:
        where += f", as if {plural(threads, 'thread')} shared that work evenly"
    return speed.on(threads), f"assumed, not probed here: that of {where}"


def best_precision() -> str:
    """bf16-mixed where the processor multiplies bf16 itself: there it is twice as fast, elsewhere slower."""
    flags = cpuinfo().get("flags", "")
    return "bf16-mixed" if "avx512_bf16" in flags or "amx_bf16" in flags else "32-true"


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
