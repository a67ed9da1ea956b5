"""Dynamic NTK: a function of the length alone, also where transformers keeps state."""

from __future__ import annotations

import torch
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from nemo_pi.rope.methods import dynamic, ntk, plain
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import rotary_cos_sin
from tests.unit.rope.peers import Peer, make_spec


def test_base_grows_from_the_window_on() -> None:
    """With D = 4 the stretch is squared: 4·l/512 - 3."""
    assert dynamic.scaled_base(4, 1e4, 4.0, 512, 512) == 1e4
    assert dynamic.scaled_base(4, 1e4, 4.0, 512, 1024) == 25e4
    assert dynamic.scaled_base(4, 1e4, 4.0, 512, 3) == 1e4


def test_at_the_target_it_is_static_ntk_with_a_larger_factor() -> None:
    """s·l/L - (s-1) at l = s·L is s² - s + 1."""
    at_target_F = dynamic.inverse_frequencies(64, 1e4, 8.0, 512, 4096)
    assert torch.equal(at_target_F, ntk.inverse_frequencies(64, 1e4, 57.0))


def assert_same_tables(spec: ContextExtension, peer: LlamaRotaryEmbedding, length: int) -> None:
    positions = torch.arange(length)[None]
    ours, theirs = rotary_cos_sin(spec, positions), peer(torch.zeros(1), positions)
    # transformers stretches the base in fp32 when it reads the length from a tensor: the difference
    # s·l/L - (s-1) loses up to three bits here, and at the last position that counts length times.
    tolerance = 2e-6 * length
    for ours_BSF, theirs_BSD in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_BSF, theirs_BSD[..., :32], rtol=0.0, atol=tolerance)


def test_restored_when_the_length_shrinks() -> None:
    """One rotary module of transformers through growing and shrinking lengths."""
    spec = make_spec("dynamic")
    peer = LlamaRotaryEmbedding(Peer(spec).config)
    for length in (511, 513, 1024, 4096, 511, 4096, 100, 513):
        assert_same_tables(spec, peer, length)
    short_F = dynamic.inverse_frequencies(64, 1e4, 8.0, 512, 511)
    assert torch.equal(short_F, plain.inverse_frequencies(64, 1e4))


def test_boundary_lengths_on_a_fresh_module() -> None:
    spec = make_spec("dynamic")
    for length in (511, 512, 513, 4095, 4096):
        assert_same_tables(spec, LlamaRotaryEmbedding(Peer(spec).config), length)
