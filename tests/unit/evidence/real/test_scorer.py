"""What reads the models: in bf16 where that is fast, with the same numbers."""

from __future__ import annotations

import pytest
import torch

from demo.extend import BASE_MODEL
from evidence.real import scorer
from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.evaluation.evaluate import evaluate
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.tasks.base import TaskContext
from nemo_pi.evaluation.tasks.perplexity import Perplexity

TEXT = "In the beginning God created the heaven and the earth. " * 40


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize(
    ("flags", "dtype"), [("avx2 avx512_bf16", torch.float32), ("avx2 amx_bf16 amx_tile", torch.bfloat16)]
)
def test_tiles_read_in_bf16(flags: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "cpuinfo", lambda: {"flags": flags})
    reader = scorer.fastest_scorer(BASE_MODEL, "base")
    assert next(reader.engine.chunks[0].parameters()).dtype is dtype
    tokenizer = build_tokenizer("huggingface", str(BASE_MODEL))
    context = TaskContext(tokenizer, [tokenizer.encode(TEXT)], 512, 4096)
    with torch.inference_mode():
        ours, theirs = (
            evaluate(each, [Perplexity(lengths=(256,))], context, name="base", origin={}).tasks["perplexity"]
            for each in (reader, HuggingFaceScorer(BASE_MODEL))
        )
    rounding = 1e-5 if dtype is torch.float32 else 0.01
    assert ours.by_length[256] == pytest.approx(theirs.by_length[256], rel=rounding)
