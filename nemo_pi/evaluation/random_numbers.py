"""Random numbers that go on as if nothing had drawn any: some of what measures seeds all generators."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Puts the generators of Python, NumPy and PyTorch back: lm-eval seeds them, and a task may draw."""
    python, numpy_, torch_ = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_)
        torch.set_rng_state(torch_)
        if devices:
            torch.cuda.set_rng_state_all(devices)
