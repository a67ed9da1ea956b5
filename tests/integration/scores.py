"""What ranks do in the tests of evaluation: score the same windows, generate from the same prompts, ask
lm-eval's questions, and write down what they got."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.evaluation.generation import GenerationRequest
from nemo_pi.evaluation.lm_eval_scores import LmEvalResult
from nemo_pi.evaluation.sampling import Sampling
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.evaluation.tasks.base import TaskContext
from nemo_pi.evaluation.tasks.lm_eval import LmEval
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.evaluation.lm_eval_tasks import MORE

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


def lm_eval(model: Path, layout: dict[str, Any], tasks: Path, folder: Path) -> None:
    """Asks lm-eval's tasks of the checkpoint `model` at a layout; each rank writes what it was told."""
    import torch.distributed as dist

    # Before lm-eval's imports read it: nothing is left in the home folder, and ranks share what is prepared.
    os.environ["HF_DATASETS_CACHE"] = str(tasks / "cache")
    from nemo_pi.checkpoint.summary import read_summary
    from nemo_pi.engine.megatron_scorer import MegatronScorer
    from nemo_pi.engine.opening import open_engine
    from nemo_pi.parallel import groups

    scorer = MegatronScorer(open_engine(read_summary(model), ParallelLayout(**layout)), "model")
    result, done, total = ask_lm_eval(scorer, model, tasks)
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps([result.to_json(), done, total]))
    groups.destroy()


def ask_lm_eval(scorer: Scorer, model: Path, tasks: Path) -> tuple[LmEvalResult, int, int]:
    """The scores, and the tokens of the last report of progress: done, and in all."""
    context = TaskContext(build_tokenizer("huggingface", str(model)), [], 64, 128, batch_tokens=700)
    task = LmEval(tasks=tuple(MORE), include_path=str(tasks))
    seen = [(0, 0)]
    result = task.run(scorer, task.plan(context), lambda _, done, total: seen.append((done, total)))
    return result, *seen[-1]
