"""Frequencies that fp32 would hold as 0 are refused where a spec is made, and no others."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from nemo_pi.errors import CheckpointError, ConfigError
from nemo_pi.rope.hf import from_hf
from nemo_pi.rope.methods import dynamic, ntk, plain
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import inverse_frequencies

NORMAL = torch.finfo(torch.float32).tiny


def build(method: str, head_dim: int = 128, target: int = 512, **values: Any) -> ContextExtension:
    return ContextExtension.build(
        original_window=64, target_window=target, method=method, head_dim=head_dim, **values
    )


@pytest.mark.parametrize(
    ("field", "method", "values"),
    [
        ("base", "none", {"base": 1e300}),
        ("extra_args.base", "abf", {"extra_args": {"base": 1e300}}),
        ("factor", "ntk", {"base": 1e37, "head_dim": 4}),
        ("factor", "ntk", {"base": 1e37, "head_dim": 4, "target": 2**62}),
        ("factor", "dynamic", {"base": 1e37, "head_dim": 4}),
        ("factor", "linear", {"base": 1e38, "target": 64 * 10**6}),
        ("factor", "llama3", {"factor": 1e300}),
        ("extra_args.long_factor", "longrope",
         {"extra_args": {"short_factor": [1.0] * 64, "long_factor": [1e300] * 64}}),
    ],
)  # fmt: skip
def test_frequencies_that_vanish_are_refused(field: str, method: str, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^{re.escape(field)}: required frequencies that fp32 can hold"):
        build(method, **values)


@pytest.mark.parametrize("head_dim", [2, 4, 64, 128, 256])
def test_the_bound_is_where_fp32_ends(head_dim: int) -> None:
    for exponent in (20, 30, 37, 38, 38.4, 38.53, 39, 100, 307):
        base = 10.0**exponent
        held = bool((plain.inverse_frequencies(head_dim, base) >= NORMAL).all())
        try:
            assert torch.equal(
                inverse_frequencies(build("none", head_dim, base=base)),
                plain.inverse_frequencies(head_dim, base),
            )
            assert held
        except ConfigError as error:
            assert not held
            build("none", head_dim, base=float(error.fix.split()[-1]))  # what the fix says can be had


@pytest.mark.parametrize("head_dim", [4, 6, 64])
@pytest.mark.parametrize("target", [128, 64 * 10**3, 64 * 10**9, 2**62])
@pytest.mark.parametrize("base", [1e4, 1e12, 1e25, 1e37])
def test_grown_bases_are_held_or_refused(head_dim: int, target: int, base: float) -> None:
    grown = (
        ntk.inverse_frequencies(head_dim, base, target / 64),
        dynamic.inverse_frequencies(head_dim, base, target / 64, 64, target),
    )
    for method, frequencies in zip(("ntk", "dynamic"), grown, strict=True):
        try:
            build(method, head_dim, target, base=base)
            assert (frequencies >= NORMAL).all()
        except ConfigError:
            assert not (frequencies >= NORMAL).all()


@pytest.mark.parametrize("entry", ["rope_theta", "factor", "max_position_embeddings"])
@pytest.mark.parametrize("rope_type", ["linear", "dynamic", "yarn", "longrope", "proportional"])
def test_huge_entries_of_a_config_are_named(rope_type: str, entry: str) -> None:
    rope = {"rope_type": rope_type, "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    if rope_type == "longrope":
        rope |= {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}  # type: ignore[dict-item]
    for huge in (10**400, 10**30):
        config = {"rope_parameters": {**rope, entry: huge}, "max_position_embeddings": 256, entry: huge}
        if huge == 10**30 and (entry == "rope_theta" or (rope_type, entry) == ("longrope", "factor")):
            continue  # 8 pairs of this base can be held; LongRoPE takes the root of the factor's logarithm
        with pytest.raises(CheckpointError, match=r"^config\.json"):
            from_hf(config, 16)


def test_a_longrope_of_one_token_says_its_attention_factor() -> None:
    lists = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    with pytest.raises(ConfigError, match=r"attention_factor: .*logarithm"):
        ContextExtension.build(
            original_window=1, target_window=4, method="longrope", head_dim=16, extra_args=lists
        )
    rope = {"rope_type": "longrope", "factor": 8.0, "original_max_position_embeddings": 1, **lists}
    with pytest.raises(CheckpointError, match="attention_factor"):
        from_hf({"rope_parameters": rope, "max_position_embeddings": 4}, 16)
