"""`model.peft` and what follows from it: what is refused, and what plan, memory and disk count."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_pi.config.disk import checkpoint_bytes
from nemo_pi.config.load import resolve
from nemo_pi.config.memory import estimate_memory
from nemo_pi.config.plan import render_plan
from nemo_pi.errors import ConfigError
from nemo_pi.families.lora import LINEARS, num_adapted, num_trained
from nemo_pi.kernels.backends import candidates, names
from tests.unit.config.builders import SHAPE, YAML_SHAPE, run_of, summary_of, values_of

SHIFTED, GROUP = {"attention_backend": "shifted"}, "model.shifted_attention_group"


def peft(**tuning: Any) -> dict[str, Any]:
    """The section, with some keys of lora_tuning."""
    return {"peft": {"lora_tuning": tuning}}


def test_names_become_linear_layers() -> None:
    lora = run_of(peft(target_modules=["linear_fc2", "attention_qkv"])).engine.build.lora
    assert lora is not None and lora.linears == (LINEARS[0], LINEARS[3])
    assert (lora.dim, lora.alpha, lora.variant, lora.init) == (32, 32.0, "nemo", "xavier")
    assert run_of({"peft": {"peft_scheme": None}}).engine.build.lora is None
    assert run_of({}).engine.build.lora is None


@pytest.mark.parametrize(
    ("section", "field", "fix"),
    [
        ({"target_modules": ["atention_qkv"]}, "target_modules", "attention_qkv"),
        ({"target_modules": ["q_proj"]}, "target_modules", "attention_qkv"),
        ({"target_modules": ["o_proj"]}, "target_modules", "attention_dense"),
        ({"target_modules": ["xyz"]}, "target_modules", "all"),
        ({"target_modules": []}, "target_modules", "attention_qkv"),
        ({"adapter_dim": 0}, "adapter_dim", "adapter_dim=8"),
        ({"adapter_dim": 1000}, "adapter_dim", "adapter_dim=8"),
        ({"alpha": 0}, "alpha", "alpha=null"),
        ({"adapter_dropout": 1.0}, "adapter_dropout", "adapter_dropout=0"),
        ({"variant": "canonicall"}, "variant", "canonical"),
        ({"column_init_method": "zero"}, "column_init_method", "xavier"),
        ({"adapter_size": 8}, "adapter_size", "adapter_dim"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_with_what_is_meant(section: dict[str, Any], field: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_of(peft(**section))
    assert field in caught.value.field and fix in caught.value.fix


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ({"peft": {"peft_scheme": "ia3"}}, "model.peft.peft_scheme"),
        ({**peft(), "transformer_engine": True}, "model.transformer_engine"),
        ({"export": {"peft_path": "/out"}}, "model.export.peft_path"),
        ({**peft(), "export": {"peft_path": "/out", "hf_path": "/out"}}, "model.export.peft_path"),
    ],
    ids=str,
)
def test_what_does_not_go_together(model: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_of(model)
    assert caught.value.field == field


def test_adapters_need_weights() -> None:
    values = values_of({**YAML_SHAPE, **peft()})
    with pytest.raises(ConfigError, match="restore_from_path"):
        resolve(values, world_size=1, summary=None)


def test_only_what_is_trained_is_counted() -> None:
    tuning = {"adapter_dim": 8, "target_modules": ["all"]}
    run, whole = run_of(peft(**tuning), summary=summary_of()), run_of({}, summary=summary_of())
    lora = run.engine.build.lora
    assert lora is not None
    adapters = num_adapted(lora, SHAPE)
    memory, before = estimate_memory(run), estimate_memory(whole)
    assert memory.weights == before.weights + 4 * adapters
    assert (memory.gradients, memory.optimizer) == (4 * adapters, 8 * adapters)
    assert checkpoint_bytes(run) == 16 * adapters
    more = run_of({"peft": {"lora_tuning": tuning, "train_embeddings_and_norms": True}}, summary=summary_of())
    assert more.engine.build.lora is not None
    assert estimate_memory(more).gradients == 4 * num_trained(more.engine.build.lora, SHAPE)


def test_the_plan_says_what_is_trained() -> None:
    plan = render_plan(run_of({**peft(adapter_dim=8), "export": {"peft_path": "/out"}}, summary=summary_of()))
    assert "LoRA (nemo), rank 8, alpha 8, on attention_qkv" in plan
    assert "/out (adapters for peft)" in plan


@pytest.mark.parametrize(
    ("model", "field", "fix"),
    [
        ({"shifted_attention_group": 64}, GROUP, "attention_backend=shifted"),
        ({**SHIFTED, "shifted_attention_group": 7}, GROUP, f"{GROUP}=256"),
        ({**SHIFTED, "shifted_attention_group": 1024}, GROUP, f"{GROUP}=256"),
        ({**SHIFTED, "data": {"data_prefix": ["/a"], "reset_attention_mask": True}}, "model.data", "auto"),
    ],
    ids=str,
)
def test_attention_in_groups_where_it_cannot_be(model: dict[str, Any], field: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_of({"encoder_seq_length": 1024, **model}, summary=summary_of())
    assert caught.value.field.startswith(field) and fix in caught.value.fix


def test_auto_never_takes_attention_in_groups() -> None:
    assert "shifted" in names("attention")
    assert "shifted" not in [one.name for one in candidates("attention")]
    plan = render_plan(run_of({**SHIFTED, "encoder_seq_length": 1024}))
    assert "shifted" in plan
