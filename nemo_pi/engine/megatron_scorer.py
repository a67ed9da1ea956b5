"""Evaluation's scorer over a model that is spread over many ranks: rates labels and generates.

Shape legend: B windows in a batch, S tokens in a window, L what this context-parallel rank holds of it, H
hidden size, 2 for log-probabilities and greedy flags, which travel in one float64 tensor, P prompts, R
replicas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from nemo_pi.engine.batches import MicroBatch
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.engine.next_logits import UncachedLogits, micro_batch_rows, padded
from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.generation import (
    Generated,
    GenerationRequest,
    NextLogits,
    generate_batch,
    generation_batches,
)
from nemo_pi.evaluation.scorer import TokenScores
from nemo_pi.model.generation import Decoder, can_cache
from nemo_pi.model.gpt import RotaryGPTModel
from nemo_pi.model.loss import check_batch
from nemo_pi.model.vocab_parallel import check_labels, token_log_probs
from nemo_pi.parallel import groups
from nemo_pi.parallel.context import split_rows


class MegatronScorer:
    """Rates labels with an engine's model, at whatever layout its ranks have.

    Every rank calls `score` with the same windows and gets the scores of all of them. Windows are dealt over
    the data-parallel replicas; each replica runs Megatron's forward-only schedule over its shard.

    Args:
        engine: with weights loaded; it needs no optimizer.
        name: what reports call the model.
        chunk_tokens: how many tokens' logits are held at once.
        use_cache: False computes every generated token from scratch: slow, and the same tokens.
    """

    def __init__(
        self, engine: MegatronEngine, name: str, *, chunk_tokens: int = 512, use_cache: bool = True
    ) -> None:
        if chunk_tokens < 1:
            raise ConfigError("chunk_tokens", required="≥ 1 token", given=chunk_tokens, fix="give e.g. 512")
        self.engine = engine
        self.chunk_tokens = chunk_tokens
        self.use_cache = use_cache
        self._name = name

    @property
    def name(self) -> str:
        """What reports call this model."""
        return self._name

    @torch.no_grad()
    def score(self, tokens_BS: Tensor, labels_BS: Tensor, position_ids_BS: Tensor) -> TokenScores:
        """Rate each label as the successor of the tokens up to its index (see `Scorer.score`).

        Raises:
            DataError: an id outside the vocabulary, which split layers would silently mask.
        """
        layout, vocab_size = self.engine.settings.layout, self.engine.settings.shape.vocab_size
        mask_BS = torch.ones(tokens_BS.shape)
        check_batch(tokens_BS, labels_BS, mask_BS, vocab_size)
        batch = {
            "tokens": tokens_BS,
            "labels": labels_BS,
            "loss_mask": mask_BS,
            "position_ids": position_ids_BS,
        }
        batch = padded(batch, layout.sequence_multiple)
        shard = _shard(tokens_BS.size(0))
        rows, size = micro_batch_rows(shard, layout.vpp)
        outputs = self.engine.collect(
            {key: value[rows] for key, value in batch.items()}, self._forward_step, size
        )
        scores_2BS = _whole_rows(outputs, rows.numel(), batch["tokens"].size(1))[:, : shard.numel()]
        scores_2BS = groups.gather_over_data(scores_2BS, dim=1)
        logprob_BS, greedy_BS = scores_2BS[:, : tokens_BS.size(0), : tokens_BS.size(1)].cpu()
        return TokenScores(logprob_BS.float(), greedy_BS.bool())

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]], request: GenerationRequest) -> list[Generated]:
        """Go on from prompts of any lengths (see `Scorer.generate`); every rank gets all of it.

        Batches are dealt over the data-parallel replicas. Tensor parallelism alone keeps keys and values;
        under pipeline, context or sequence parallelism every token takes a pass over the whole text, which
        suits short answers.

        Raises:
            DataError: an empty prompt, or an id outside the vocabulary.
        """
        for prompt in prompts:
            check_labels(torch.tensor(list(prompt)), self.engine.settings.shape.vocab_size, "prompts")
        self.engine.gather_weights()
        for chunk in self.engine.chunks:
            chunk.eval()
        # A batch is shared by all replicas, in score as here.
        shard = replace(request, batch_tokens=max(1, request.batch_tokens // groups.data_size()))
        batches = generation_batches([len(prompt) for prompt in prompts], shard)
        new_PS = torch.full((len(prompts), request.max_new_tokens), -1)
        for numbers in batches[groups.data_rank() :: groups.data_size()]:
            next_logits = self._next_logits(len(numbers), len(prompts[numbers[0]]) + request.max_new_tokens)
            for number, text in zip(
                numbers, generate_batch(next_logits, prompts, numbers, request), strict=True
            ):
                new_PS[number, : len(text.token_ids)] = torch.tensor(text.token_ids)
        # -1 where another replica computed; every prompt was computed by one.
        new_RPS = groups.gather_over_data(new_PS[None].to(groups.device()), dim=0)
        rows = new_RPS.amax(0).tolist()
        return [request.finish([token for token in row if token >= 0]) for row in rows]

    def _next_logits(self, num_rows: int, max_length: int) -> NextLogits:
        """What computes the logits of one batch's next tokens, cached where the layout allows it."""
        if can_cache(self.engine.config):
            return Decoder(self.engine.chunks[0], num_rows, max_length, self.use_cache).logits
        return UncachedLogits(self.engine)

    def _forward_step(
        self, data_iterator: Iterator[MicroBatch], model: RotaryGPTModel
    ) -> tuple[Tensor, partial[Tensor]]:
        """One micro-batch through one model chunk, as Megatron's schedules call it."""
        batch = next(data_iterator)
        hidden_LBH = model.hidden_states(**batch.inputs)
        return hidden_LBH, partial(self._rate, model, batch.labels)

    def _rate(
        self, model: RotaryGPTModel, labels_BL: Tensor, hidden_LBH: Tensor, non_loss_data: bool
    ) -> Tensor:
        """Scores [2, B, L] of a micro-batch on the last stage, the same on every tensor-parallel rank."""
        hidden_NH, weight_VH, bias_V = model.output_inputs(hidden_LBH)
        scores = token_log_probs(
            hidden_NH,
            weight_VH,
            labels_BL.t().flatten(),
            chunk_tokens=self.chunk_tokens,
            group=model.vocab_group,
            bias_V=bias_V,
            products=model.products,
            real_rows=model.real_rows,
        )
        return torch.stack([part_N.double().view(labels_BL.t().shape).t() for part_N in scores])


def _shard(num_rows: int) -> Tensor:
    """Indices of this replica's rows. All replicas get equally many; the last row stands in for missing
    ones."""
    size = -(-num_rows // groups.data_size())
    first = groups.data_rank() * size
    return torch.arange(first, first + size).clamp(max=num_rows - 1)


def _whole_rows(outputs: list[Tensor], num_rows: int, length: int) -> Tensor:
    """Scores [2, rows, S] on every rank of a replica, from its micro-batches' [2, B, L] on the last stage."""
    size = groups.context_size()
    scores = torch.zeros(2, num_rows, length // size, dtype=torch.float64, device=groups.device())
    if outputs:
        scores.copy_(torch.cat(outputs, dim=1))
    scores = groups.broadcast_from_last_stage(scores)
    if size == 1:
        return scores
    split = split_rows([(0, length)] * num_rows, size, groups.context_rank())
    return torch.stack([split.restore(part) for part in groups.gather_over_context(scores, dim=2)])
