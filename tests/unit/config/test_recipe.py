from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nemo_pi.config.recipe import (
    OPTIMIZERS,
    check_initialization,
    resolve_export,
    resolve_optim,
    resolve_precision,
    resolve_recompute,
    resolve_tokenizer,
)
from nemo_pi.config.schema import ModelConfig
from nemo_pi.config.sections import ExportConfig, OptimConfig, SchedConfig, TokenizerConfig
from nemo_pi.errors import ConfigError
from nemo_pi.model.options import Recompute
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.config.builders import SHAPE, summary_of


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "32-true"),
        (32, "32-true"),
        ("32", "32-true"),
        ("32-true", "32-true"),
        ("bf16", "bf16-mixed"),
        ("bf16-mixed", "bf16-mixed"),
        ("bf16-true", "bf16-true"),
        (16, "16-mixed"),
        ("16-mixed", "16-mixed"),
        ("16-true", "16-true"),
    ],
)
def test_precision_names(given: Any, expected: str) -> None:
    assert resolve_precision(given) == expected


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", "32-true"), ("bfloat16", "bf16-mixed"), ("float16", "bf16-mixed")]
)
def test_auto_goes_by_the_checkpoint_s_dtype(dtype: str, expected: str) -> None:
    assert resolve_precision("auto", summary_of(dtype=dtype)) == expected
    assert resolve_precision("auto", None) == "32-true"


@pytest.mark.parametrize(
    ("given", "suggestion"),
    [("bf16-mix", "bf16-mixed"), (64, "choose"), ("half", "choose"), (False, "choose")],
)
def test_other_precisions_are_refused(given: Any, suggestion: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_precision(given)
    assert caught.value.field == "trainer.precision"
    assert suggestion in caught.value.fix


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nemo_s_names_of_adamw(name: str) -> None:
    assert resolve_optim(OptimConfig(name=name), 100).name == name


def test_default_recipe_is_the_paper_s() -> None:
    optim = resolve_optim(OptimConfig(), 1000)
    assert (optim.lr, optim.betas, optim.weight_decay) == (2e-5, (0.9, 0.95), 0.0)
    assert optim.sched == SchedConfig("constant", 20, 0.1, 1000, 0.0, 0)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("constant", "constant"),
        ("CosineAnnealing", "cosine"),
        ("WarmupHoldPolicy", "constant"),
        ("linear", "linear"),
    ],
)
def test_schedule_names(name: str, canonical: str) -> None:
    optim = OptimConfig(sched=SchedConfig(name=name, max_steps=50))
    assert (resolve_optim(optim, 100).sched.name, resolve_optim(optim, 100).sched.max_steps) == (
        canonical,
        50,
    )


@pytest.mark.parametrize(
    ("optim", "key"),
    [
        (OptimConfig(name="fused_adm"), "name"),
        (OptimConfig(name="sgd"), "name"),
        (OptimConfig(lr=0.0), "lr"),
        (OptimConfig(lr=-1e-4), "lr"),
        (OptimConfig(betas=(1.0, 0.95)), "betas[0]"),
        (OptimConfig(betas=(0.9, -0.1)), "betas[1]"),
        (OptimConfig(weight_decay=-0.1), "weight_decay"),
        (OptimConfig(eps=0.0), "eps"),
        (OptimConfig(sched=SchedConfig(name="cosin")), "sched.name"),
        (OptimConfig(sched=SchedConfig(warmup_steps=100)), "sched.warmup_steps"),
        (OptimConfig(sched=SchedConfig(warmup_steps=-1)), "sched.warmup_steps"),
        (OptimConfig(sched=SchedConfig(max_steps=20)), "sched.warmup_steps"),
        (OptimConfig(sched=SchedConfig(max_steps=0)), "sched.max_steps"),
        (OptimConfig(sched=SchedConfig(warmup_start_fraction=1.5)), "sched.warmup_start_fraction"),
        (OptimConfig(sched=SchedConfig(min_lr=1e-4)), "sched.min_lr"),
        (OptimConfig(sched=SchedConfig(min_lr=-1e-9)), "sched.min_lr"),
        (OptimConfig(sched=SchedConfig(constant_steps=80)), "sched.constant_steps"),
    ],
)
def test_optimizer_and_schedule_values_are_checked(optim: OptimConfig, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_optim(optim, 100)
    assert caught.value.field == f"model.optim.{key}"


def test_nearest_optimizer_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean fused_adam"):
        resolve_optim(OptimConfig(name="fused_adm"), 100)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("hidden_dropout", 0.1),  # the model has no dropout, and must not pretend
        ("attention_dropout", 0.1),
        ("hidden_dropout", -0.1),
        ("seed", -1),
        ("seed", 2**32),
        ("init_method_std", 0.0),
    ],
)
def test_initialization(name: str, wrong: Any) -> None:
    check_initialization(ModelConfig())
    with pytest.raises(ConfigError) as caught:
        check_initialization(ModelConfig(**{name: wrong}))
    assert caught.value.field == f"model.{name}"


def recompute(
    granularity: str | None = None,
    method: str | None = None,
    number: int | None = None,
    modules: list[str] | None = None,
) -> Recompute:
    config = ModelConfig(
        activations_checkpoint_modules=modules,
        activations_checkpoint_granularity=granularity,
        activations_checkpoint_method=method,
        activations_checkpoint_num_layers=number,
    )
    return resolve_recompute(config, SHAPE, ParallelLayout(pp=2))


def test_recomputation() -> None:
    assert recompute() == Recompute()
    assert recompute("selective") == Recompute("selective", modules=("core_attn",))
    assert recompute("selective", modules=["mlp"]) == Recompute("selective", modules=("mlp",))
    assert recompute("full") == Recompute("full", "uniform", 1)
    assert recompute("full", "block", 2) == Recompute("full", "block", 2)


def test_uniform_recomputation_wants_equal_chunks() -> None:
    """Megatron runs past the last layer otherwise."""
    config = ModelConfig(
        activations_checkpoint_granularity="full",
        activations_checkpoint_method="uniform",
        activations_checkpoint_num_layers=3,
    )
    with pytest.raises(ConfigError, match="a divisor of 4"):
        resolve_recompute(config, SHAPE, ParallelLayout())
    config.activations_checkpoint_method = "block"
    assert resolve_recompute(config, SHAPE, ParallelLayout()) == Recompute("full", "block", 3)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("fulll",), "granularity"),
        (("full", "unifrom"), "method"),
        (("full", None, 3), "num_layers"),  # a stage of 4 layers on 2 ranks has 2
        (("full", None, 0), "num_layers"),
        (("selective", "uniform"), "method"),
        (("selective", None, None, ["mpl"]), "modules"),
        (("selective", None, None, []), "modules"),
        (("selective", None, None, ["mlp", "mlp"]), "modules"),
        (("full", None, None, ["mlp"]), "modules"),
        ((None, None, None, ["mlp"]), "modules"),
        ((None, None, 1), "num_layers"),
    ],
)
def test_recomputation_is_checked(arguments: tuple[Any, ...], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recompute(*arguments)
    assert caught.value.field == f"model.activations_checkpoint_{key}"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (TokenizerConfig(), TokenizerConfig("huggingface", None, "/models/base")),
        (TokenizerConfig("huggingface"), TokenizerConfig("huggingface", None, "/models/base")),
        (TokenizerConfig(model="/tok"), TokenizerConfig("huggingface", None, "/tok")),
        (
            TokenizerConfig("sentencepiece", None, "/t.model"),
            TokenizerConfig("sentencepiece", None, "/t.model"),
        ),
        (TokenizerConfig("byte"), TokenizerConfig("byte")),
    ],
)
def test_tokenizer(given: TokenizerConfig, expected: TokenizerConfig) -> None:
    assert resolve_tokenizer(given, summary_of()) == expected


def test_no_tokenizer_at_all() -> None:
    assert resolve_tokenizer(TokenizerConfig(), None) is None
    assert resolve_tokenizer(TokenizerConfig(), summary_of(tokenizer_path=None)) is None


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (TokenizerConfig("sentencepiece"), "model"),
        (TokenizerConfig("huggingface"), "model"),
        (TokenizerConfig("hugingface", None, "/t"), "library"),
    ],
)
def test_tokenizer_is_checked(given: TokenizerConfig, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_tokenizer(given, None)
    assert caught.value.field == f"model.tokenizer.{field}"


def test_export_keeps_the_checkpoint_s_dtype() -> None:
    assert resolve_export(ExportConfig("/out"), summary_of(dtype="bfloat16")).dtype == "bfloat16"
    assert resolve_export(ExportConfig("/out"), None).dtype == "float32"
    assert resolve_export(ExportConfig("/out", "float16"), None).dtype == "float16"
    with pytest.raises(ConfigError, match="bfloat16"):
        resolve_export(ExportConfig("/out", "bfloat"), None)


def test_tokenizer_path_may_be_apart_from_the_checkpoint() -> None:
    summary = summary_of(kind="distributed", tokenizer_path=Path("/ckpt/tokenizer"))
    resolved = resolve_tokenizer(TokenizerConfig(), summary)
    assert resolved is not None
    assert resolved.model == "/ckpt/tokenizer"
