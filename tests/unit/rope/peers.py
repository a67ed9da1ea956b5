"""Extension specs and, written down separately, what transformers calls the same thing."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXConfig, GPTNeoXRotaryEmbedding

from nemo_pi.errors import ConfigError
from nemo_pi.rope.fields import YAML_KEYS
from nemo_pi.rope.spec import ContextExtension

METHODS = ("none", "linear", "ntk", "dynamic", "yarn", "llama3", "longrope", "abf", "proportional")
UNTYPED = ("none", "ntk", "abf")
"""Methods that Hugging Face calls `default`, whatever the base."""


@contextmanager
def as_in_a_yaml() -> Iterator[None]:
    """Errors of nemo_pi.rope leave as users of a YAML see them."""
    try:
        yield
    except ConfigError as error:
        raise error.respelled(YAML_KEYS) from error


class Peer:
    """A spec's twin in transformers; nothing of nemo_pi computes any of its numbers."""

    def __init__(self, spec: ContextExtension) -> None:
        self.spec = spec
        self.rope_parameters = self._rope_parameters()
        window = spec.original_window if spec.method == "dynamic" else spec.target_window
        common = {
            "max_position_embeddings": window,
            "hidden_size": spec.head_dim,
            "num_attention_heads": 1,
            "rope_parameters": dict(self.rope_parameters),
        }
        # Llama's own default rotation knows no partial rotary; GPT-NeoX's does.
        plain = spec.method in UNTYPED
        self.config = GPTNeoXConfig(**common) if plain else LlamaConfig(**common, head_dim=spec.head_dim)

    def _rope_parameters(self) -> dict[str, Any]:
        spec, dim = self.spec, int(self.spec.head_dim * self.spec.rotary_percent)
        rope: dict[str, Any] = {"rope_theta": spec.base, "partial_rotary_factor": spec.rotary_percent}
        if spec.method == "ntk":
            rope["rope_theta"] = spec.base * math.pow(spec.factor, dim / (dim - 2))
        if spec.method == "abf":
            rope["rope_theta"] = dict(spec.extra)["base"]
        if spec.method in UNTYPED:
            return {**rope, "rope_type": "default"}
        rope |= {"rope_type": spec.method, "factor": spec.factor}
        if spec.method in ("yarn", "llama3", "longrope"):
            rope["original_max_position_embeddings"] = spec.original_window
        extra = {key: list(v) if isinstance(v, tuple) else v for key, v in dict(spec.extra).items()}
        return rope | extra

    def frequencies(self, seq_len: int | None = None) -> tuple[Tensor, float]:
        """Inverse frequencies and attention factor."""
        if self.rope_parameters["rope_type"] == "default":
            return GPTNeoXRotaryEmbedding.compute_default_rope_parameters(self.config)
        return ROPE_INIT_FUNCTIONS[self.rope_parameters["rope_type"]](self.config, None, seq_len=seq_len)

    def cos_sin(self, position_ids: Tensor, seq_len: int | None = None) -> tuple[Tensor, Tensor]:
        """As LlamaRotaryEmbedding.forward computes them from these frequencies: fp32 throughout."""
        inverse, factor = self.frequencies(seq_len)
        angle = position_ids[..., None].float() * inverse
        return angle.cos() * factor, angle.sin() * factor


def exact_frequencies(spec: ContextExtension, seq_len: int | None = None) -> list[float]:
    """The published formulas in Python's float64, one frequency at a time."""
    dim, s, window, extra = spec.rotary_dim, spec.factor, spec.original_window, dict(spec.extra)
    base = spec.base
    if spec.method == "ntk":
        base *= s ** (dim / (dim - 2))
    if spec.method == "abf":
        base = extra["base"]
    if spec.method == "dynamic" and seq_len is not None and seq_len > window:
        base *= (s * seq_len / window - (s - 1)) ** (dim / (dim - 2))
    return [_exact(spec.method, j, base ** (-2 * j / dim), spec, extra, seq_len) for j in range(dim // 2)]


def _exact(method: str, j: int, theta: float, spec: Any, extra: dict[str, Any], seq_len: int | None) -> float:
    window, s = spec.original_window, spec.factor
    if method == "linear":
        return theta / s
    if method == "proportional":
        turning = math.floor(extra["partial_rotary_factor"] * spec.head_dim / 2)
        return theta / s if j < turning else 0.0
    if method == "longrope":
        name = "long_factor" if seq_len is not None and seq_len > window else "short_factor"
        return theta / extra[name][j]
    if method == "llama3":
        turns = window * theta / (2 * math.pi)
        low, high = extra["low_freq_factor"], extra["high_freq_factor"]
        kept = min(1.0, max(0.0, (turns - low) / (high - low)))
        return kept * theta + (1 - kept) * theta / s
    if method == "yarn":
        fast, slow = extra.get("beta_fast", 32.0), extra.get("beta_slow", 1.0)
        ends = [
            spec.rotary_dim * math.log(window / (turns * 2 * math.pi)) / (2 * math.log(spec.base))
            for turns in (fast, slow)
        ]
        if extra.get("truncate", True):
            ends = [math.floor(ends[0]), math.ceil(ends[1])]
        low, high = max(ends[0], 0), min(ends[1], spec.rotary_dim - 1)
        share = (j - low) / (high - low) if high != low else (j - low) / 0.001
        share = min(1.0, max(0.0, share))
        return theta * (1 - share) + theta / s * share
    return theta


def make_spec(method: str, **changes: Any) -> ContextExtension:
    """A small valid spec of any method; longrope gets lists of its own."""
    values: dict[str, Any] = {"original_window": 512, "target_window": 4096, "head_dim": 64} | changes
    rotary_dim = int(values["head_dim"] * values.get("rotary_percent", 1.0))
    if method == "longrope" and "extra_args" not in values:
        values["extra_args"] = {
            "short_factor": [1.0 + j / rotary_dim for j in range(rotary_dim // 2)],
            "long_factor": [1.5 + j for j in range(rotary_dim // 2)],
        }
    if method == "abf" and "extra_args" not in values:
        values["extra_args"] = {"base": 40.0 * values.get("base", 10000.0)}
    if method == "proportional":
        values.setdefault("extra_args", {"partial_rotary_factor": 0.25})
        values["rotary_percent"] = 1.0  # whole heads: its own share says which pairs turn
    return ContextExtension.build(method=method, **values)


def random_spec(seed: int) -> ContextExtension:
    """One of endlessly many specs; seeds take the methods in turn."""
    draw = random.Random(seed)
    method = METHODS[seed % len(METHODS)]
    original = draw.choice([16, 100, 512, 2048, 4096, 8192, 32768])
    factor = draw.choice([1.0, 1.5, 2.0, 3.7, 8.0, 16.0, 32.0, 100.0])
    target = round(original * factor)
    head_dim, rotary_percent = draw.choice(
        [(16, 1.0), (64, 1.0), (96, 0.5), (128, 0.75), (80, 0.4), (256, 1.0)]
    )
    return make_spec(
        method,
        original_window=original,
        target_window=target,
        head_dim=head_dim,
        rotary_percent=rotary_percent,
        base=draw.choice([500.0, 10000.0, 1e6, 5e5, 123456.7]),
        extra_args=_random_extra(method, int(head_dim * rotary_percent) // 2, draw),
    )


def _random_extra(method: str, num_frequencies: int, draw: random.Random) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    if method == "yarn":
        extra = {"truncate": draw.random() < 0.5}
        if draw.random() < 0.5:
            extra |= {"beta_fast": draw.uniform(8, 64), "beta_slow": draw.uniform(0.5, 4)}
        if draw.random() < 0.4:
            extra |= {"mscale": draw.uniform(0.5, 2), "mscale_all_dim": draw.uniform(0.5, 2)}
        if draw.random() < 0.3:
            extra["attention_factor"] = draw.uniform(0.5, 2)
    if method == "llama3":
        extra = {"low_freq_factor": draw.uniform(0.5, 2), "high_freq_factor": draw.uniform(3, 8)}
    if method == "longrope":
        extra = {
            name: [draw.uniform(1, 40) for _ in range(num_frequencies)]
            for name in ("short_factor", "long_factor")
        }
        if draw.random() < 0.3:
            extra["attention_factor"] = draw.uniform(0.5, 2)
    if method == "abf":
        extra = {"base": draw.choice([600.0, 10000.0, 8e6, 1.5e9])}
    if method == "proportional":
        extra = {"partial_rotary_factor": draw.choice([0.125, 0.25, 0.3, 0.77, 1.0])}
    return extra


def lengths_of(spec: ContextExtension) -> list[int | None]:
    """Lengths at which something could change."""
    window, target = spec.original_window, spec.target_window
    return [None, 1, window - 1, window, window + 1, 2 * window, target, target + 1, 10_000_000]
