"""Logits of a growing text from a transformers model, with a cache that is right under every rotary scaling.

Dynamic NTK and LongRoPE change their frequencies with the length. transformers keeps the keys of earlier
tokens as they were rotated then, so that its cached text depends on where the prompt ended; and its dynamic
NTK remembers the longest text ever read and reads later, shorter ones at that length's frequencies. Here a
cache whose keys are out of date is thrown away, and every text begins with the frequencies of the model.

Shape legend: B rows, S tokens of a row, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nemo_pi.rope.hf_kinds import FULL, SLIDING
from nemo_pi.rope.positions import text_positions


class CachedLogits:
    """The logits after texts that grow from call to call.

    Args:
        model: a transformers causal language model.
        device: where it is.
        prepare: called with the length of the text before the model reads it.
    """

    def __init__(
        self, model: Any, device: torch.device, prepare: Callable[[int], None] = lambda _: None
    ) -> None:
        self.model, self.device, self._prepare = model, device, prepare
        self._cache: Any = None
        self._num_cached = 0
        # Logits of the whole prompt would need 16.8 GB for 32k tokens of a vocabulary of 128k.
        takes = inspect.signature(model.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        reset_frequencies(model)

    def __call__(self, text_BS: Tensor) -> Tensor:
        """Logits [B, V]; the texts are those of the call before with tokens added."""
        before, has_cache = _frequencies(self.model), self._num_cached > 0
        logits_BV = self._forward(text_BS)
        # Whether a length changes the frequencies is known only once the model has read it.
        after = _frequencies(self.model)
        if has_cache and not all(map(torch.equal, before, after)):
            self._cache, self._num_cached = None, 0
            logits_BV = self._forward(text_BS)
        return logits_BV

    def _forward(self, text_BS: Tensor) -> Tensor:
        length, new = text_BS.size(1), slice(self._num_cached, None)
        self._prepare(length)
        output = self.model(
            input_ids=text_BS[:, new].to(self.device),
            position_ids=text_positions(length)[new].expand(text_BS.size(0), -1).to(self.device),
            attention_mask=torch.ones_like(text_BS, device=self.device),
            past_key_values=self._cache,
            use_cache=True,
            **self._last_only,
        )
        self._cache, self._num_cached = output.past_key_values, length
        logits_BV: Tensor = output.logits[:, -1]
        return logits_BV


def reset_frequencies(model: nn.Module) -> None:
    """Make dynamic NTK forget the longest text it has read; other scalings do not remember any."""
    for module, kind in list(rotary_modules(model)):
        window = getattr(module, "original_max_seq_len", None)
        if window is not None and getattr(module, f"{kind}max_seq_len_cached", window) > window:
            name = f"{kind}inv_freq"
            original = getattr(module, f"{kind}original_inv_freq").to(getattr(module, name).device)
            module.register_buffer(name, original, persistent=False)
            setattr(module, f"{kind}max_seq_len_cached", window)


# Kinds of layers with rotary embeddings of their own stand before the names of what each has.
_KINDS = ("", *(f"{kind}_" for kind in (FULL, SLIDING)))


def rotary_modules(model: nn.Module) -> Iterator[tuple[Any, str]]:
    """Modules with frequencies, once for each kind of layer that they have some for."""
    return (
        (module, kind)
        for module in model.modules()
        for kind in _KINDS
        if isinstance(getattr(module, f"{kind}inv_freq", None), Tensor)
    )


def _frequencies(model: nn.Module) -> list[Tensor]:
    # Cloned: LongRoPE's are written over in place.
    return [getattr(module, f"{kind}inv_freq").clone() for module, kind in rotary_modules(model)]
