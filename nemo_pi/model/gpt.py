"""GPTModel whose rotary embeddings follow position_ids, and whose loss needs no whole logits.

Shape legend: B batch, S sequence (S/tp under sequence parallelism where noted), N = S·B, H hidden size,
V rows of the vocabulary on this rank, padding included.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from torch import Tensor
from torch.nn import Parameter

from nemo_pi.model.backends import Backends
from nemo_pi.model.chunked_loss import weighted_loss_sum
from nemo_pi.model.loss import masked_sum
from nemo_pi.model.rotary import RotaryTables
from nemo_pi.model.vocab_parallel import hide_padding
from nemo_pi.rope.spec import ContextExtension


class RotaryGPTModel(GPTModel):
    """Megatron's GPTModel with nemo_pi's rotary tables and loss in place of its own.

    Called with labels and a loss_mask, the last pipeline stage returns the loss summed over scored tokens;
    with labels alone Megatron's per-token losses [B, S], and with neither its logits [B, S, V].

    Args:
        extension: how positions become angles.
        backends: what does each job of the model; the loss takes its softmax and its products from here.
        loss_chunk_tokens: tokens whose logits exist at once in the summed loss; None: all of them.
        embedding_scale: what token embeddings are multiplied by.
        output_bias: whether the output layer adds a bias to the logits.
        logits_divisor: what logits are divided by.
        num_tokens: entries of the vocabulary where vocab_size counts padding behind them, too, so that ranks
            share it evenly; None: vocab_size.
        args, kwargs: as GPTModel's; its own position embedding is switched off.

    Attributes:
        vocab_size: entries of the vocabulary, without padding.
        real_rows: rows of this rank's part of the vocabulary that are tokens; None where all are.
    """

    def __init__(
        self,
        *args: Any,
        extension: ContextExtension,
        backends: Backends,
        loss_chunk_tokens: int | None = None,
        embedding_scale: float = 1.0,
        output_bias: bool = False,
        logits_divisor: float = 1.0,
        num_tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        # Megatron's own tables go by a token's place in its row; ours are made in _preprocess.
        super().__init__(*args, position_embedding_type="none", **kwargs)
        self.real_rows: int | None = None
        if num_tokens is not None:
            group, padded = self.pg_collection.tp, int(kwargs["vocab_size"])
            rows = padded // group.size()
            found = min(max(num_tokens - group.rank() * rows, 0), rows)
            self.vocab_size, self.real_rows = num_tokens, None if found == rows else found
        self.rotary_tables = RotaryTables(extension)
        self.loss_chunk_tokens = loss_chunk_tokens
        self.backends = backends
        self._embedding_scale, self._logits_divisor = embedding_scale, logits_divisor
        if output_bias and self.post_process:
            self._add_output_bias()
        self.products, self._softmax = backends.load("matmul"), backends.load("softmax")
        self._seq_len: int | None = None
        self._stops_at_hidden_states = False

    def _add_output_bias(self) -> None:
        """Megatron's GPTModel builds its output layer without a bias; the layer itself knows what to do with
        one."""
        layer, like = self.output_layer, next(self.decoder.parameters())
        bias_V = like.new_zeros(layer.output_size_per_partition)
        layer.bias = Parameter(bias_V)
        set_tensor_model_parallel_attributes(layer.bias, True, 0, 1)
        layer.bias.allreduce = True

    def forward(self, *args: Any, seq_len: int | None = None, **kwargs: Any) -> Any:
        """As Megatron's, with `seq_len` as RotaryTables takes it."""
        # Megatron's forward takes no such argument: _preprocess reads it from here.
        self._seq_len = seq_len
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._seq_len = None

    def hidden_states(self, **inputs: Any) -> Tensor:
        """What forward hands to the output layer, [S, B, H], for those that need no logits of a whole row.

        Under sequence parallelism this rank's part of S; on other than the last stage, as forward.
        """
        self._stops_at_hidden_states = True
        try:
            return self(**inputs)
        finally:
            self._stops_at_hidden_states = False

    @property
    def vocab_group(self) -> dist.ProcessGroup | None:
        """The ranks that share the vocabulary; None where this rank holds it all."""
        group: dist.ProcessGroup = self.pg_collection.tp
        return group if group.size() > 1 else None

    def output_inputs(self, hidden_SBH: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """What logits are made of: whole hidden states [N, H], this rank's rows [V, H], and its bias [V].

        Where the model divides its logits, the hidden states are divided already.

        Args:
            hidden_SBH: the last layer's output, [S/tp, B, H] under sequence parallelism: gathered here, once.
                Gradients of the tensor-parallel ranks add up on the way back.
        """
        # The output layer is never called, but what waits for its weights must be: Megatron's DDP gathers
        # them while earlier layers compute (overlap_param_gather), by hooks on calls.
        for hook in self.output_layer._forward_pre_hooks.values():
            hook(self.output_layer, ())
        shared = self.share_embeddings_and_output_weights
        weight_VH = self.shared_embedding_or_output_weight() if shared else self.output_layer.weight
        if self.vocab_group is not None:
            collect = (
                gather_from_sequence_parallel_region
                if self.config.sequence_parallel
                else copy_to_tensor_model_parallel_region
            )
            hidden_SBH = collect(hidden_SBH, group=self.vocab_group)
        return self._divided(hidden_SBH).flatten(0, 1), weight_VH, self.output_layer.bias

    def _divided(self, hidden_states: Tensor) -> Tensor:
        """What makes the output layer's products the divided logits; of an inner stage as it is."""
        divides = self.post_process and self._logits_divisor != 1.0
        return hidden_states / self._logits_divisor if divides else hidden_states

    def _preprocess(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        decoder_input: Tensor | None = None,
        inference_context: Any = None,
        packed_seq_params: Any = None,
        padding_mask: Tensor | None = None,
    ) -> tuple[Any, ...]:
        """Embeds tokens on the first stage and makes rotary tables, from position_ids, on every stage."""
        if decoder_input is None and self.pre_process:
            decoder_input = self.embedding(input_ids=input_ids, position_ids=position_ids)
            if self._embedding_scale != 1.0:
                # In the embedding's dtype, as transformers rounds it.
                decoder_input = decoder_input * decoder_input.new_tensor(self._embedding_scale)
            if self.config.recompute_granularity is not None and torch.is_grad_enabled():
                # Of a frozen embedding: what is recomputed gets gradients only where its input asks for one.
                decoder_input.requires_grad_()
        return decoder_input, self.rotary_tables(position_ids, self._seq_len), None, None, None, padding_mask

    def _postprocess(
        self,
        hidden_states: Tensor,
        *args: Any,
        labels: Tensor | None = None,
        loss_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Hidden states of an inner stage or if asked for, else the summed loss where labels have a mask."""
        if self._stops_at_hidden_states:
            return hidden_states
        if not self.post_process or labels is None or loss_mask is None:
            output: Tensor = super()._postprocess(
                self._divided(hidden_states), *args, labels=labels, **kwargs
            )
            # Whole logits end with the last token; padding lies behind it.
            return output[..., : self.vocab_size] if self.post_process and labels is None else output
        if self.loss_chunk_tokens is None:
            loss_BS = super()._postprocess(self._divided(hidden_states), *args, labels=labels, **kwargs)
            return masked_sum(loss_BS, loss_mask)
        hidden_NH, weight_VH, bias_V = self.output_inputs(hidden_states)
        return weighted_loss_sum(
            hidden_NH,
            weight_VH,
            labels.t().flatten(),
            loss_mask.t().flatten(),
            chunk_tokens=self.loss_chunk_tokens,
            group=self.vocab_group,
            bias_V=bias_V,
            products=self.products,
            softmax=self._softmax,
            real_rows=self.real_rows,
        )

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Megatron's, to which columns of padding would be tokens."""
        if self.real_rows is not None:
            logits = hide_padding(logits, self.real_rows)
        loss: Tensor = super().compute_language_model_loss(labels, logits)
        return loss
