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

from evidence.real.scorer import fastest_scorer
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

    def describe(self) -> str:
        """Say it in words."""
        return f"On {plural(self.threads, 'thread')}: {self.per_step:.1f} s a training step, " + ", ".join(
            f"{self.reading(n):.0f} s to read {n:,} tokens" for n in (8192, 16384, 32768)
        )


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


def known_speed(file: Path, model: Path, precision: str) -> Speed:
    """From an earlier probe with as many threads, or from a new one."""
    if file.exists():
        speed = Speed(**json.loads(file.read_text(encoding="utf-8")))
        if speed.threads == torch.get_num_threads():
            return speed
    speed = probe(model, precision)
    file.write_text(json.dumps(asdict(speed)) + "\n", encoding="utf-8")
    return speed


def best_precision() -> str:
    """bf16-mixed where the processor multiplies bf16 itself: there it is twice as fast, elsewhere slower."""
    flags = cpuinfo().get("flags", "")
    return "bf16-mixed" if "avx512_bf16" in flags or "amx_bf16" in flags else "32-true"


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
