"""The layers' parts, and the promise that a backend asked for by name never degrades."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nemo_pi.errors import BackendUnavailableError
from nemo_pi.kernels.activation import activation_torch
from nemo_pi.model import engine_layers
from nemo_pi.model.attention import RotarySelfAttention
from nemo_pi.model.core_attention import SdpaCoreAttention
from nemo_pi.model.engine_layers import resolve_transformer_engine
from nemo_pi.model.norm import RMSNorm
from nemo_pi.model.options import BackendRequests, BuildOptions
from nemo_pi.model.parallel_linear import ColumnLinear, RowLinear
from tests.unit.model.models import SHAPE, build

WITHOUT_ENGINE = pytest.mark.skipif(
    engine_layers.transformer_engine_available(), reason="Transformer Engine is installed"
)


@WITHOUT_ENGINE
@pytest.mark.parametrize("request_", [True, "true", "True"])
def test_engine_by_name_stops_where_it_is_absent(request_: str | bool) -> None:
    with pytest.raises(BackendUnavailableError, match=r"model\.transformer_engine"):
        resolve_transformer_engine(request_)


@pytest.mark.parametrize("request_", [False, "false", "False"])
def test_engine_can_be_forbidden(request_: str | bool) -> None:
    assert resolve_transformer_engine(request_) is False


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize("cuda", [False, True])
def test_auto_takes_the_engine_where_it_can_run(
    installed: bool, cuda: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(engine_layers, "find_spec", lambda name: object() if installed else None)
    assert resolve_transformer_engine("auto") is (installed and cuda)


@pytest.mark.usefixtures("one_rank")
def test_local_layers_are_made_of_our_parts() -> None:
    model = build()
    assert len(model.decoder.layers) == SHAPE.num_layers
    norms = [model.decoder.final_layernorm]
    for layer in model.decoder.layers:
        assert isinstance(layer.self_attention, RotarySelfAttention)
        assert isinstance(layer.self_attention.core_attention, SdpaCoreAttention)
        assert isinstance(layer.self_attention.linear_qkv, ColumnLinear)
        assert isinstance(layer.self_attention.linear_proj, RowLinear)
        norms += [layer.input_layernorm, layer.pre_mlp_layernorm]
    assert all(isinstance(norm, RMSNorm) for norm in norms)


@pytest.mark.usefixtures("one_rank")
def test_norms_of_query_and_key_are_ours_too() -> None:
    layer = build(replace(SHAPE, family="qwen3", qk_norm=True)).decoder.layers[0].self_attention
    for norm in (layer.q_layernorm, layer.k_layernorm):
        assert isinstance(norm, RMSNorm)
        assert norm.weight.shape == (SHAPE.head_dim,)


@pytest.mark.usefixtures("one_rank")
def test_the_activation_is_ours_and_no_part_of_a_checkpoint() -> None:
    model = build(options=BuildOptions(backends=BackendRequests(activation="torch")))
    assert all(layer.mlp.activation_func is activation_torch for layer in model.decoder.layers)
    saved = model.sharded_state_dict(metadata={"distrib_optim_sharding_type": "fully_reshardable"})
    assert not [key for key in saved if "activation" in key]
    assert any("linear_fc1.weight" in key for key in saved)
