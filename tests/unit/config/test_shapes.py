from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_pi.config.schema import ModelConfig
from nemo_pi.config.shapes import SHAPE_KEYS, check_choice, resolve_shape
from nemo_pi.errors import CheckpointError, ConfigError
from nemo_pi.families.registry import PLUG_INS, family_named
from tests.plug_ins import install
from tests.unit.config.builders import SHAPE, YAML_SHAPE, summary_of


def test_the_checkpoint_decides_where_the_yaml_is_silent() -> None:
    shape = replace(SHAPE, family="mistral", sliding_window=128, norm_epsilon=1e-6)
    assert resolve_shape(ModelConfig(), summary_of(shape)) == shape


def test_agreeing_keys_are_accepted() -> None:
    agreeing: dict[str, Any] = {key: getattr(SHAPE, field) for key, field in SHAPE_KEYS.items()}
    assert resolve_shape(ModelConfig(**agreeing), summary_of()) == SHAPE


@pytest.mark.parametrize("key", sorted(SHAPE_KEYS))
def test_a_key_that_disagrees_with_the_checkpoint_is_refused(key: str) -> None:
    windows = {"sliding_window": 8, "full_attention_layers": [1], "unrotated_layers": [1]}
    windows |= {"attention_multiplier": 0.5}
    held = getattr(SHAPE, SHAPE_KEYS[key])
    other = windows.get(key) or ((not held) if isinstance(held, bool) else held * 2)
    with pytest.raises(ConfigError, match="/models/base") as caught:
        resolve_shape(ModelConfig(**{key: other}), summary_of())
    assert caught.value.field == f"model.{key}"
    assert str(held) in caught.value.required
    assert caught.value.given == (tuple(other) if isinstance(other, list) else other)
    assert "null" in caught.value.fix


def test_from_scratch_derives_head_dim_and_groups() -> None:
    given = {key: value for key, value in YAML_SHAPE.items() if key != "num_query_groups"}
    shape = resolve_shape(ModelConfig(**given), None)
    assert (shape.head_dim, shape.num_query_groups) == (64, 4)
    assert (shape.norm_epsilon, shape.tied_embeddings, shape.family) == (1e-5, False, "llama")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"qk_layernorm": True}, {"family": "qwen3", "qk_norm": True}),
        ({"add_qkv_bias": True}, {"family": "qwen2", "qkv_bias": True}),
        ({"family": "qwen3"}, {"family": "qwen3", "qk_norm": True}),
        ({"family": "qwen2", "add_qkv_bias": True}, {"family": "qwen2", "qkv_bias": True}),
        ({"sliding_window": 8}, {"family": "mistral", "sliding_window": 8}),
        ({"residual_multiplier": 0.5}, {"family": "granite", "residual_multiplier": 0.5}),
        (
            {"sliding_window": 8, "full_attention_layers": [1], "qk_layernorm": True},
            {"family": "qwen3", "qk_norm": True, "sliding_window": 8, "full_attention_layers": (1,)},
        ),
        ({"qk_layernorm": False, "add_qkv_bias": False}, {"family": "llama"}),
    ],
    ids=str,
)
def test_from_scratch_a_family_follows_from_its_features(given: dict, expected: dict) -> None:
    plain = resolve_shape(ModelConfig(**YAML_SHAPE), None)
    assert resolve_shape(ModelConfig(**YAML_SHAPE, **given), None) == replace(plain, **expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"family": "llama", "qk_layernorm": True}, "qk_layernorm: true; given llama.*model.family=qwen3"),
        ({"family": "qwen2", "qk_layernorm": True}, "model.family=qwen3"),
        ({"add_qkv_bias": True, "qk_layernorm": True}, "leave one of them null"),
        ({"family": "quen2"}, "did you mean qwen2"),
        ({"full_attention_layers": [1]}, "full_attention_layers: required some layers of 0 to"),
        ({"sliding_window": 8, "full_attention_layers": [99]}, "full_attention_layers"),
        ({"sliding_window": 0}, "sliding_window: required more than 0"),
    ],
    ids=str,
)
def test_features_that_no_family_has_together_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_shape(ModelConfig(**YAML_SHAPE, **given), None)


@pytest.mark.parametrize(
    "key", ["num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "vocab_size"]
)
def test_from_scratch_needs_sizes(key: str) -> None:
    given = {name: value for name, value in YAML_SHAPE.items() if name != key}
    with pytest.raises(ConfigError, match="restore_from_path") as caught:
        resolve_shape(ModelConfig(**given), None)
    assert caught.value.field == f"model.{key}"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"num_attention_heads": 3}, "num_attention_heads"),  # 256 channels are not 3 heads
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_query_groups": 3}, "num_query_groups"),
        ({"num_layers": 0}, "num_layers"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"kv_channels": 0}, "kv_channels"),
        ({"layernorm_epsilon": 0.0}, "layernorm_epsilon"),
        ({"position_embedding_type": "learned_absolute"}, "position_embedding_type"),
        ({"normalization": "layernorm1p"}, "normalization"),
        ({"activation": "gelu"}, "activation"),
        ({"bias": True}, "bias"),
    ],
)
def test_impossible_shapes_are_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_shape(ModelConfig(**(YAML_SHAPE | changes)), None)
    assert caught.value.field == f"model.{key}"


@pytest.mark.parametrize("family", ["baichuan", "internlm2"])
def test_families_whose_class_is_remote_code_are_built_by_name(family: str) -> None:
    given = {key: value for key, value in YAML_SHAPE.items() if key != "num_query_groups"}
    shape = resolve_shape(ModelConfig(**given, family=family), None)
    assert (shape.family, shape.num_query_groups) == (family, shape.num_attention_heads)


OTHERS = ("phi", "gpt_neox", "gptj", "stablelm", "nemotron")


@pytest.mark.parametrize("family", OTHERS)
def test_families_of_other_layers_are_built_by_name(family: str) -> None:
    """With what transformers' own configuration has where the YAML is silent."""
    from transformers import CONFIG_MAPPING

    given = {key: value for key, value in YAML_SHAPE.items() if key != "num_query_groups"}
    shape = resolve_shape(ModelConfig(**given, family=family), None)
    names = {"gptj": {"n_embd": 256, "n_head": 4, "n_inner": 688, "n_layer": 4}}
    sizes = names.get(
        family,
        {
            key: value
            for key, value in family_named(family).shape_entries(shape).items()
            if key.startswith(("num_", "hidden_size", "intermediate"))
        },
    )
    usual = CONFIG_MAPPING[family](vocab_size=2048, **sizes).to_dict()
    assert shape == family_named(family).read_shape(usual)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"family": "phi", "normalization": "rmsnorm"}, "layernorm, as every model of the family phi"),
        ({"family": "nemotron", "normalization": "layernorm"}, "required layernorm1p"),
        ({"family": "phi", "bias": False}, "bias: false"),
        ({"family": "nemotron", "activation": "tanh"}, r"model\.activation: required one of .*gelu"),
        ({"family": "gptj"}, "num_query_groups=4; given .*num_query_groups=2"),
        ({"family": "gpt_neox", "num_query_groups": None, "add_qkv_bias": False}, "add_qkv_bias=true"),
        ({"normalization": "layernorm"}, "rmsnorm where no family is named.*name the family in model.family"),
    ],
    ids=str,
)
def test_kinds_of_layers_that_a_family_has_not(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_shape(ModelConfig(**(YAML_SHAPE | given)), None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"family": "nemotron", "activation": "squared-relu", "normalization": "layernorm1p"}, "relu2"),
        ({"family": "gpt_neox", "activation": "gelu_new", "num_query_groups": None}, "gelu_tanh"),
        ({"family": "stablelm", "activation": "fast-swiglu", "normalization": "layernorm"}, "silu"),
        ({"normalization": "rmsnorm", "activation": "swiglu", "bias": False}, "silu"),
    ],
    ids=str,
)
def test_words_for_kinds_of_layers(given: dict[str, Any], expected: str) -> None:
    assert resolve_shape(ModelConfig(**(YAML_SHAPE | given)), None).activation == expected


def test_head_dim_need_not_be_hidden_size_by_heads() -> None:
    assert resolve_shape(ModelConfig(**YAML_SHAPE, kv_channels=96), None).head_dim == 96


def test_check_choice_names_the_nearest() -> None:
    check_choice("key", "ntk", ("linear", "ntk"))
    with pytest.raises(ConfigError, match="did you mean linear"):
        check_choice("key", "liner", ("linear", "ntk"))


def test_a_name_that_two_have_is_refused_where_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "acme", "raise SystemExit", PLUG_INS, {"llama": "Acme"})
    assert resolve_shape(ModelConfig(**YAML_SHAPE), None).family == "llama"
    with pytest.raises(CheckpointError, match=r"^model\.family: .*acme 1\.2, which nemo_pi has already"):
        resolve_shape(ModelConfig(**YAML_SHAPE, family="llama"), None)
