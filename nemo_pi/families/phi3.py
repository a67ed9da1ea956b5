"""Phi-3 and Phi-4-mini: query, key and value in one tensor, gate and up in another, a sliding window in every
layer or none, LongRoPE, and in Phi-4-mini a part of each head that is not rotated.

Shape legend: F rotary frequencies, C candidates for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch

from nemo_pi.errors import CheckpointError, NemoPiError
from nemo_pi.families.llama import Llama
from nemo_pi.families.mistral import Mistral
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.table import LayerNames
from nemo_pi.rope.hf import OTHER_WINDOWS, RECORD, to_hf
from nemo_pi.rope.methods import longrope
from nemo_pi.rope.methods.longrope import LongRope
from nemo_pi.rope.methods.plain import wavelength_powers
from nemo_pi.rope.methods.yarn import Yarn
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import attention_factor, inverse_frequencies

_STEPS = 4  # of fp32, around a quotient of which three roundings went before
_PLAIN = "default"
"""Plain RoPE's name there."""
_OWN = (_PLAIN, LongRope.hf_types[0])
"""The class takes these two, and refuses all others."""


class Phi3(Mistral):
    """model_type phi3."""

    name = "phi3"
    architecture = "Phi3ForCausalLM"
    rotates_parts = True
    by_features = False
    layer_names = LayerNames(qkv=("self_attn.qkv_proj",) * 3, fc1=("mlp.gate_up_proj",) * 2)
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "sliding_window": None,
    }
    rope_defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
    }

    def read_extension(self, config: Mapping[str, Any], shape: ModelShape) -> ContextExtension:
        """As transformers' class reads it; what we wrote in LongRoPE's words comes back as it was meant."""
        read = super().read_extension(_as_longrope(config), shape)
        record = config.get(RECORD)
        if not isinstance(record, Mapping):
            return read
        try:
            meant = replace(ContextExtension.from_dict(record), interleaved=False)
            self.check_exportable(meant)
            written = {key: value for key, value in self.extension_entries(meant).items() if key != RECORD}
            same = super().read_extension(written, shape) == read
        except NemoPiError:
            return read  # the same positions, by the entries that transformers reads
        return meant if same else read

    def extension_entries(self, extension: ContextExtension) -> dict[str, Any]:
        """In the words of transformers' class: plain RoPE, or LongRoPE's divisor of each frequency.

        Every scaling that does not depend on the length is one of the latter.
        """
        entries = to_hf(extension)
        rope = entries.pop("rope_parameters")
        if rope["rope_type"] not in _OWN:
            # As LongRoPE, of which readers take the whole window as it is, whatever they make of another.
            entries = {key: value for key, value in entries.items() if key not in OTHER_WINDOWS}
            entries["max_position_embeddings"] = extension.target_window
        original = entries["max_position_embeddings"]
        if rope["rope_type"] != _PLAIN:
            entries["rope_scaling"] = _scaling(extension, rope)
            original = extension.original_window
        if extension.rotary_percent != 1.0:
            entries["partial_rotary_factor"] = extension.rotary_percent
        # The class has a default for this one.
        return {**entries, "rope_theta": rope["rope_theta"], "original_max_position_embeddings": original}

    def check_exportable(self, extension: ContextExtension) -> None:
        """Refuses frequencies that depend on the length in another way than LongRoPE's, or that are 0."""
        super().check_exportable(extension)
        frequencies_F = inverse_frequencies(extension, extension.target_window)
        own = to_hf(extension)["rope_parameters"]["rope_type"] in _OWN
        if not own and (extension.depends_on_length or not bool((frequencies_F > 0).all())):
            raise CheckpointError(
                "model.pos_scaling_type",
                required=f"a method that {self.architecture} in transformers can compute: a divisor for each "
                "frequency, at every length or on either side of the original window",
                given=extension.method,
                fix="choose another method, or keep the model as a distributed checkpoint",
            )

    def check_export_of(self, shape: ModelShape, extension: ContextExtension) -> None:
        """Refuses divisors that the class would count otherwise: by hidden_size, whatever head_dim says."""
        super().check_export_of(shape, extension)
        counted = shape.hidden_size // shape.num_attention_heads
        scaled = to_hf(extension)["rope_parameters"]["rope_type"] != _PLAIN
        if scaled and int(counted * extension.rotary_percent) // 2 != extension.rotary_dim // 2:
            raise CheckpointError(
                "model.kv_channels",
                required=f"hidden_size / num_attention_heads = {counted}: transformers' {self.architecture} "
                "refuses a scaled model with other heads",
                given=shape.head_dim,
                fix=f"train with model.kv_channels={counted}, or keep the model as a distributed checkpoint",
            )

    def same_function(self, shape: ModelShape) -> tuple[ModelShape, ...]:
        """A Llama, or with a sliding window a Mistral; both rotate whole heads only."""
        return (replace(shape, family=(Llama if shape.sliding_window is None else Mistral).name),)


_EARLY = (*LongRope.hf_types[1:], Yarn.name)


def _as_longrope(config: Mapping[str, Any]) -> dict[str, Any]:
    """The first Phi-3 called LongRoPE su or yarn; transformers reads either as longrope."""
    found = dict(config)
    for key in ("rope_parameters", "rope_scaling"):
        entries = config.get(key)
        if isinstance(entries, Mapping) and entries.get("rope_type", entries.get("type")) in _EARLY:
            found[key] = {**entries, "rope_type": LongRope.hf_types[0]}
    return found


def _scaling(extension: ContextExtension, rope: Mapping[str, Any]) -> dict[str, Any]:
    """rope_scaling of LongRoPE; that of another method has two lists that are alike.

    Before transformers 5 the class takes the three entries that it was published with, and no others; they
    are all where cosines and sines are multiplied as LongRoPE does it. vLLM reads what they are multiplied by
    under names of its own.
    """
    lists = {name: rope.get(name) or _divisors(extension) for name in ("short_factor", "long_factor")}
    entries = {"type": LongRope.hf_types[0], **lists}
    times = attention_factor(extension, extension.target_window)
    original, ratio = extension.original_window, extension.target_window / extension.original_window
    if original > 1 and times == longrope.attention_factor(ratio, original):
        return entries
    return {**entries, "attention_factor": times, "short_mscale": times, "long_mscale": times}


def _divisors(extension: ContextExtension) -> list[float]:
    """What plain RoPE's frequencies are divided by [F], such that fp32 comes as near as it can.

    transformers computes 1 / (divisor · b^(2j/D)) in fp32: of the numbers next to the quotient, the one is
    taken that rounds to the frequency itself; where none does, the two are one step of fp32 apart.
    """
    wanted_F = inverse_frequencies(extension, extension.target_window)
    powers_F = wavelength_powers(extension.rotary_dim, extension.base)
    below_F = above_F = (1.0 / (powers_F.double() * wanted_F.double())).float()
    candidates = [below_F]
    for _ in range(_STEPS):
        below_F, above_F = below_F.nextafter(below_F.new_zeros(())), above_F.nextafter(2 * above_F)
        candidates += [below_F, above_F]
    every_CF = torch.stack(candidates)
    nearest_F = (1.0 / (every_CF * powers_F) - wanted_F).abs().argmin(dim=0)
    divisors: list[float] = every_CF.gather(0, nearest_F[None])[0].tolist()
    return divisors
