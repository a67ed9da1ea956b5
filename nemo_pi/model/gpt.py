"""GPTModel whose rotary embeddings follow position_ids."""

from __future__ import annotations

from typing import Any

from megatron.core.models.gpt import GPTModel
from torch import Tensor

from nemo_pi.model.rotary import RotaryTables
from nemo_pi.rope.spec import ContextExtension


class RotaryGPTModel(GPTModel):
    """Megatron's GPTModel with nemo_pi's rotary tables in place of its own.

    Args:
        extension: how positions become angles.
        args, kwargs: as GPTModel's; its own position embedding is switched off.
    """

    def __init__(self, *args: Any, extension: ContextExtension, **kwargs: Any) -> None:
        super().__init__(*args, position_embedding_type="none", **kwargs)
        self.rotary_tables = RotaryTables(extension)
        self._seq_len: int | None = None

    def forward(self, *args: Any, seq_len: int | None = None, **kwargs: Any) -> Any:
        """As Megatron's, with `seq_len` as RotaryTables takes it."""
        self._seq_len = seq_len
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._seq_len = None

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
        return decoder_input, self.rotary_tables(position_ids, self._seq_len), None, None, None, padding_mask
