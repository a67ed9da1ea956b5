"""Text that goes on from a prompt, with the keys and values of earlier tokens kept.

Keys are kept rotated, in megatron-core's own StaticInferenceContext. That is exact as long as the frequencies
stay as they were when the keys were rotated. Dynamic NTK changes them with every token beyond the original
window, LongRoPE once, at its end. To keep keys unrotated and rotate them anew would not help: the frequencies
also shaped what earlier tokens read in the first layer, and so their keys and values in all layers above. So
where the frequencies change, everything is computed anew; what comes out is always what a computation from
scratch gives.

Shape legend: B rows, S tokens of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from megatron.core.inference.contexts import StaticInferenceContext
from torch import Tensor

from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.generation import check_room, extend_texts
from nemo_pi.evaluation.sampling import Sampler, Sampling
from nemo_pi.model.gpt import RotaryGPTModel
from nemo_pi.model.vocab_parallel import check_labels
from nemo_pi.parallel import groups
from nemo_pi.parallel.cpu_shim import cpu_shim
from nemo_pi.rope.positions import text_positions
from nemo_pi.rope.tables import same_frequencies


@torch.no_grad()
def generate(
    model: RotaryGPTModel,
    prompt_BS: Tensor,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    *,
    stop_ids: Collection[int] = (),
    use_cache: bool = True,
) -> Tensor:
    """Goes on from prompts of one length, token by token.

    Every tensor-parallel rank calls it with the same arguments and gets the same tokens.

    Args:
        model: a whole model, or a tensor-parallel part of one, on local layers.
        prompt_BS: int64 token ids.
        max_new_tokens: how many tokens to add at most.
        sampling: greedy by default.
        stop_ids: a row ends with the first of these; it is filled up with it.
        use_cache: False computes every token from scratch: slow, and the same tokens.

    Returns:
        int64 [B, new] on the CPU, new ≤ max_new_tokens: it ends when every row has.

    Raises:
        DataError: an empty prompt, one longer than the window, or ids outside the vocabulary.
        ConfigError: more new tokens than the window has room for, or a layout that cannot generate.
    """
    _check_layout(model)
    window, vocab_size = model.rotary_tables.extension.target_window, model.vocab_size
    check_request(window, vocab_size, prompt_BS, max_new_tokens)
    model.eval()
    decoder = Decoder(model, prompt_BS.size(0), prompt_BS.size(1) + max_new_tokens, use_cache)
    stops = torch.tensor(sorted(stop_ids), dtype=torch.int64)
    new_BS, _ = extend_texts(
        decoder.logits,
        prompt_BS,
        max_new_tokens,
        draw=Sampler(sampling or Sampling()),
        ended=lambda new_BS: torch.isin(new_BS[:, -1], stops),
    )
    return new_BS


class Decoder:
    """Logits of the token after a text that grows from call to call.

    Args:
        model: as generate's.
        num_rows: rows of every text.
        max_length: tokens that the longest text will have.
        use_cache: whether keys and values are kept between calls.
    """

    def __init__(self, model: RotaryGPTModel, num_rows: int, max_length: int, use_cache: bool = True) -> None:
        self.model = model
        self.use_cache = use_cache
        self._context = StaticInferenceContext(num_rows, max_length)

    @property
    def num_cached(self) -> int:
        """Tokens whose keys and values are kept."""
        return int(self._context.sequence_len_offset)

    def logits(self, text_BS: Tensor) -> Tensor:
        """Logits [B, V], whole on every tensor-parallel rank.

        Args:
            text_BS: the text of the call before with tokens added; any text where nothing is cached.
        """
        length = text_BS.size(1)
        extension = self.model.rotary_tables.extension
        if not self.use_cache or not same_frequencies(extension, self.num_cached, length):
            self._context.reset()
        new = slice(self.num_cached, length)
        device = groups.device()
        with cpu_shim():
            logits_B1V = self.model(
                input_ids=text_BS[:, new].to(device),
                position_ids=text_positions(length)[new].expand(text_BS.size(0), -1).to(device),
                attention_mask=None,
                inference_context=self._context,
                runtime_gather_output=True,
            )
        # Megatron's attention stores keys and values, but leaves the counting to whoever calls the model.
        self._context.increment_sequence_len_offset(length - self.num_cached)
        return logits_B1V[:, -1]


def check_request(window: int, vocab_size: int, prompt_BS: Tensor, max_new_tokens: int) -> None:
    """What generate would stop at, for those who want to know before a model is loaded.

    Args:
        window: tokens the model reads.
        vocab_size: of the model.
        prompt_BS, max_new_tokens: as generate.

    Raises:
        DataError, ConfigError: as generate.
    """
    check_room(
        window, prompt_BS.size(1), max_new_tokens, whose="the model's", more="extend the model further"
    )
    check_labels(prompt_BS, vocab_size, "prompt")


def can_cache(config: Any) -> bool:
    """Whether keys and values can be kept at a model's layout: tensor parallelism alone.

    Args:
        config: the model's TransformerConfig.
    """
    shared = config.pipeline_model_parallel_size * config.context_parallel_size
    return bool(shared == 1 and not config.sequence_parallel)


def _check_layout(model: RotaryGPTModel) -> None:
    config = model.config
    if not can_cache(config):
        raise ConfigError(
            "parallel layout",
            required="tensor parallelism alone, to generate",
            given=f"PP {config.pipeline_model_parallel_size}, CP {config.context_parallel_size}, sequence "
            f"parallel {str(config.sequence_parallel).lower()}",
            fix="open the checkpoint with --tensor-model-parallel-size only: it opens at any layout",
        )
