"""Passkey retrieval over length × depth (arXiv 2306.15595, §3.3.1).

A trial succeeds if greedy decoding of the prompt gives the answer's tokens. That is read off one
teacher-forced pass over prompt and answer: greedy decoding emits, at each step, the arg max given the prompt
and what it has emitted. If every answer token is the arg max given the prompt and the answer before it, then
by induction decoding has emitted just these tokens at each step, and emits the next. Conversely, if decoding
emits the answer, it has at each step seen what teacher forcing sees, so each token is the arg max there. One
pass replaces a prefill and a decode per trial, and needs no cache. Under dynamic NTK and LongRoPE the pass
reads everything at the frequencies of the whole document, decoding at those of what it has so far: there
`generate` asks what a user would see. (Digits spelled by other tokens than the tokenizer's own count as a
failure in both.)

Shapes: B documents in a batch, S tokens in a document less one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from nemo_pi.evaluation.generation import GenerationRequest
from nemo_pi.evaluation.passkey_plan import PasskeyPlan
from nemo_pi.evaluation.passkey_result import PasskeyGrid
from nemo_pi.evaluation.passkey_text import PasskeyDocument, TextTokenizer
from nemo_pi.evaluation.scorer import Scorer, score_texts
from nemo_pi.evaluation.tasks.base import Progress, batched


def passkey_retrieval(
    scorer: Scorer,
    tokenizer: TextTokenizer,
    plan: PasskeyPlan,
    *,
    batch_tokens: int = 8192,
    progress: Progress | None = None,
) -> PasskeyGrid:
    """Count the passkeys a model retrieves in each cell of length × depth.

    Args:
        scorer: the model.
        tokenizer: its tokenizer.
        plan: lengths, depths, trials and seed.
        batch_tokens: tokens per batch; documents of one length go together, at least one.
        progress: called before the first and after every batch.

    Raises:
        DataError: a length that is too short for a passkey document with this tokenizer.
        ConfigError: a depth outside [0, 1].
    """
    report = progress or (lambda *_: None)
    done, successes, total = 0, [], plan.num_tokens + plan.num_new_tokens
    answered = partial(generates, batch_tokens=batch_tokens) if plan.generate else retrieves
    report("passkey", done, total)
    for length in plan.lengths:
        counts = [0] * len(plan.depths)
        for batch in batched(plan.documents(tokenizer, length), max(1, batch_tokens // length)):
            retrieved = answered(scorer, [document for _, document in batch])
            for (depth_index, _), success in zip(batch, retrieved, strict=True):
                counts[depth_index] += success
            done += (length + plan.num_new_tokens // plan.num_documents) * len(batch)
            report(f"passkey at {length}", done, total)
        successes.append(tuple(counts))
    return PasskeyGrid(plan.lengths, plan.depths, plan.num_trials, tuple(successes))


def generates(
    scorer: Scorer, documents: Sequence[PasskeyDocument], *, batch_tokens: int = 8192
) -> list[bool]:
    """Say of each document whether the model, left to generate greedily, answers it."""
    answered: dict[int, bool] = {}
    # By tokens of the answer: as many as the longest one's would take the others beyond the window.
    for num_new in sorted({document.num_answer_tokens for document in documents}):
        numbers = [i for i, document in enumerate(documents) if document.num_answer_tokens == num_new]
        prompts = [documents[i].token_ids[:-num_new] for i in numbers]
        texts = scorer.generate(prompts, GenerationRequest(num_new, batch_tokens=batch_tokens))
        for i, text in zip(numbers, texts, strict=True):
            answered[i] = text.token_ids == documents[i].token_ids[-num_new:]
    return [answered[i] for i in range(len(documents))]


def retrieves(scorer: Scorer, documents: Sequence[PasskeyDocument]) -> list[bool]:
    """Say of each document, all of one length, whether greedy decoding would answer it."""
    ids = torch.tensor([document.token_ids for document in documents], dtype=torch.int64)
    is_greedy_BS = score_texts(scorer, ids).is_greedy_BS.cpu()
    pairs = zip(is_greedy_BS, documents, strict=True)
    return [bool(is_greedy_S[-document.num_answer_tokens :].all()) for is_greedy_S, document in pairs]
