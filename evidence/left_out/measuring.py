"""What each trained model is asked, by transformers in float32 on held-out works.

Shape legend: N labels with a short context of their own, all texts together.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from demo.extend import BASE_MODEL
from demo.measure import heldout_documents
from demo.methods import TARGET, WINDOW
from evidence.left_out.longce import LongCE
from evidence.left_out.mixed import as_switched
from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.evaluation.evaluate import evaluate
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.passkey_result import PasskeyResult
from nemo_pi.evaluation.perplexity import PerplexityResult
from nemo_pi.evaluation.tasks.base import TaskContext
from nemo_pi.evaluation.tasks.passkey import Passkey
from nemo_pi.evaluation.tasks.perplexity import Perplexity
from nemo_pi.rope.positions import text_positions

KEY_LENGTHS, TRIALS = (512, 2048, 4096), 2
TEXTS = 4
"""Held-out works whose tokens are compared with and without long context."""
ALPHA = BETA = 2.0
"""LongPPL's thresholds, in nats."""


@dataclass(frozen=True)
class Figures:
    """Of one model."""

    perplexity: dict[int, float]
    """By context length."""
    passkeys: dict[int, float]
    """Share that is found, by length, over all depths."""
    k_max: int
    """Longest length up to which keys at the beginning are found."""
    unscaled: tuple[float, float]
    """Perplexity and pass keys at WINDOW where texts of that length are read at their original positions."""


@dataclass(frozen=True)
class Losses:
    """Of the same labels, read far and not so far."""

    long_N: NDArray[np.float64]
    """After everything before it."""
    short_N: NDArray[np.float64]
    """After a short context."""


def figures(folder: Path, heldout: Path) -> Figures:
    """Perplexity and pass keys of a Hugging Face folder; `unscaled` is written beside it."""
    found = _evaluated(folder, heldout, KEY_LENGTHS, None)
    switched = _evaluated(as_switched(folder, folder.parent / "unscaled"), heldout, (WINDOW,), (WINDOW,))
    rates = {length: found[1].grid.rate(length) for length in KEY_LENGTHS}
    unscaled = switched[0].by_length[WINDOW], switched[1].grid.rate(WINDOW)
    return Figures(found[0].by_length, rates, found[1].k_max, unscaled)


def _evaluated(
    folder: Path, heldout: Path, key_lengths: tuple[int, ...], lengths: tuple[int, ...] | None
) -> tuple[PerplexityResult, PasskeyResult]:
    tokenizer = build_tokenizer("huggingface", str(BASE_MODEL))
    context = TaskContext(tokenizer, heldout_documents(heldout), WINDOW, TARGET, batch_tokens=TARGET)
    tasks = (Perplexity(lengths=lengths, stride=512), Passkey(lengths=key_lengths, trials=TRIALS))
    with torch.inference_mode():
        results = evaluate(HuggingFaceScorer(folder), tasks, context)
    perplexity, passkey = results.tasks["perplexity"], results.tasks["passkey"]
    assert isinstance(perplexity, PerplexityResult) and isinstance(passkey, PasskeyResult)
    return perplexity, passkey


def losses(folder: Path, heldout: Path) -> Losses:
    """Of the first held-out works up to the target window, by LongCE's short contexts."""
    scorer, longce = HuggingFaceScorer(folder), LongCE()
    with heldout.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["tokens"][: TARGET + 1] for line in islice(lines, TEXTS)]
    rows_BS = torch.tensor(texts)
    tokens_BS, labels_BS = rows_BS[:, :-1], rows_BS[:, 1:]
    positions_BS = text_positions(TARGET).expand_as(tokens_BS)
    batch = {"tokens": tokens_BS, "labels": labels_BS, "position_ids": positions_BS}
    own = slice(longce.short - 1, -1)
    with torch.inference_mode():
        pair = [-scores_BS[:, own].flatten() for scores_BS in longce.log_probs(scorer, batch)]
    return Losses(pair[0].numpy(), pair[1].numpy())


def key_tokens(models: list[Losses]) -> NDArray[np.bool_]:
    """Which labels need long context, by the mean losses of all models: the same for each of them."""
    long_N = np.mean([model.long_N for model in models], axis=0)
    short_N = np.mean([model.short_N for model in models], axis=0)
    chosen_N: NDArray[np.bool_] = (short_N - long_N > ALPHA) & (long_N < BETA)
    return chosen_N
