"""What ranks do in the tests of evaluation: score the same windows, generate from the same prompts, and write
down what they got."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_pi.evaluation.generation import GenerationRequest
from nemo_pi.evaluation.sampling import Sampling
from nemo_pi.parallel.layout import ParallelLayout

ROWS, LENGTH, VOCAB = 3, 27, 2048  # not divisible by 2: rows and tokens are made up to what ranks can share


def windows() -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, labels, and positions with a gap that reach beyond the original window of 64."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, VOCAB, (ROWS, LENGTH + 1), generator=generator)
    positions = torch.arange(LENGTH).expand(ROWS, LENGTH) + 90 * (torch.arange(LENGTH) > 10)
    return ids[:, :-1].clone(), ids[:, 1:].clone(), positions


def score(model: Path, layout: dict[str, Any], inputs: tuple[Tensor, ...], folder: Path) -> None:
    """Scores `inputs` with the checkpoint `model` at a layout; each rank writes a file of its own."""
    import torch.distributed as dist

    from nemo_pi.checkpoint.summary import read_summary
    from nemo_pi.engine.megatron_scorer import MegatronScorer
    from nemo_pi.engine.opening import open_engine
    from nemo_pi.parallel import groups

    engine = open_engine(read_summary(model), ParallelLayout(**layout))
    scores = MegatronScorer(engine, "model", chunk_tokens=20).score(*inputs)
    torch.save([scores.logprob_BS, scores.is_greedy_BS], folder / f"{dist.get_rank()}.pt")
    groups.destroy()


def prompts() -> list[list[int]]:
    """Token ids of different lengths, one of them twice; the longest cross the original window of 64."""
    generator = torch.Generator().manual_seed(9)
    return [torch.randint(VOCAB, (n,), generator=generator).tolist() for n in (9, 62, 9, 13, 70)]


def requests() -> tuple[GenerationRequest, GenerationRequest]:
    """Greedy and drawn."""
    return GenerationRequest(5), GenerationRequest(5, Sampling(temperature=1.1, top_k=40, seed=2))


def generate(model: Path, layout: dict[str, Any], folder: Path) -> None:
    """Generates from the prompts with the checkpoint `model` at a layout; each rank writes its own file."""
    import torch.distributed as dist

    from nemo_pi.checkpoint.summary import read_summary
    from nemo_pi.engine.megatron_scorer import MegatronScorer
    from nemo_pi.engine.opening import open_engine
    from nemo_pi.parallel import groups

    scorer = MegatronScorer(open_engine(read_summary(model), ParallelLayout(**layout)), "model")
    texts = [[text.token_ids for text in scorer.generate(prompts(), request)] for request in requests()]
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(texts))
    groups.destroy()
