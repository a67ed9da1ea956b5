"""Megatron's self-attention with rotary embeddings taken from the sample's positions.

Stock megatron-core rotates by the index of a token in its row and ignores position_ids. Here the
tables arrive through the argument that the transformer block already hands down (rotary_pos_emb), and
are used where query and key are made, so Megatron's own rotary code never runs.
"""

from __future__ import annotations

import copy
from typing import Any

from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from nemo_pi.kernels.autograd import rotate_fused_qkv
from nemo_pi.kernels.rotary import RotaryKernel
from nemo_pi.model.rotary import RotaryPlan


class RotarySelfAttention(SelfAttention):
    """SelfAttention whose query and key are rotated by nemo_pi's kernel.

    Args:
        config: of the model.
        args, kwargs: Megatron's.
        rotary_kernel: what rotates.
        rotary_plan: which tables this layer is rotated by, if any.
        proj_bias: whether the output projection adds a bias.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *args: Any,
        rotary_kernel: RotaryKernel,
        rotary_plan: RotaryPlan,
        proj_bias: bool = False,
        **kwargs: Any,
    ) -> None:
        if proj_bias != config.add_bias_linear:
            # Megatron has one switch for the biases of this projection and of the MLP's.
            config = copy.copy(config)
            config.add_bias_linear = proj_bias
        super().__init__(config, *args, **kwargs)
        self._kernel = rotary_kernel
        # Megatron counts layers of the whole model from 1, whatever stage they are on.
        self._kind = rotary_plan.kinds[self.layer_number - 1]
        self._scales_queries = rotary_plan.scales_queries
        self._rotation = self._kernel.rotation if self._splits_evenly() else None
        self._tables: Tensor | None = None

    def forward(self, *args: Any, rotary_pos_emb: Tensor | None = None, **kwargs: Any) -> Any:
        """As Megatron's, with `rotary_pos_emb` the [2·K, S, B, 1, F] tables of RotaryTables."""
        # Kept aside for the call: Megatron does not hand them to the method that makes query and key.
        self._tables = rotary_pos_emb
        try:
            return super().forward(*args, rotary_pos_emb=None, **kwargs)
        finally:
            self._tables = None

    def get_query_key_value_tensors(
        self, hidden_states: Tensor, key_value_states: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """Query, key and value [S, B, heads, head_dim], query and key already rotated, if this layer's are.

        Where the kernel can, it reads them in the output of the fused projection. It works in place there
        for as many key heads as query heads: the projection does not need its own output for the backward
        pass. With fewer key heads, Megatron would copy the query to bring its heads onto one axis; here the
        rotation itself writes them there, and the projection's output is freed.
        """
        tables = self._tables
        if tables is None:
            return super().get_query_key_value_tensors(hidden_states, key_value_states, **kwargs)
        query, *others = self._rotated(tables, hidden_states, key_value_states, **kwargs)
        if self._scales_queries:
            query = query * tables[-1, ..., :1].to(query.dtype)
        return query, *others

    def _rotated(
        self, tables: Tensor, hidden_states: Tensor, key_value_states: Tensor | None, **kwargs: Any
    ) -> Any:
        if self._kind is None:
            return super().get_query_key_value_tensors(hidden_states, key_value_states, **kwargs)
        cos, sin = tables[2 * self._kind], tables[2 * self._kind + 1]
        interleaved = self.config.rotary_interleaved
        if self._rotation is None:
            qkv = super().get_query_key_value_tensors(hidden_states, key_value_states, **kwargs)
            query, key, value = qkv
            return *self._kernel(query, key, cos, sin, interleaved), value
        mixed, _ = super().get_query_key_value_tensors(hidden_states, split_qkv=False)
        head_dim = self.hidden_size_per_attention_head
        return rotate_fused_qkv(self._rotation, mixed, cos, sin, head_dim, interleaved, in_place=True)

    def _splits_evenly(self) -> bool:
        """Whether query, key and value are cut from the projection with nothing done to them in between."""
        norms = (self.q_layernorm, self.k_layernorm)
        return (
            all(norm is None or isinstance(norm, IdentityOp) for norm in norms)
            and not self.config.test_mode
            and not self.config.attention_output_gate
            # With fewer groups than ranks, Megatron gathers the projection and picks this rank's heads.
            and (self.config.num_query_groups or 1) >= self.world_size
        )
