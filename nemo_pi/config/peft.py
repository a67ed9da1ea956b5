"""`model.peft`: adapters in place of all weights, checked by themselves and against the model."""

from __future__ import annotations

from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.config.linears import named_linears
from nemo_pi.config.schema import ModelConfig
from nemo_pi.config.sections import LoraConfig
from nemo_pi.config.shapes import check_choice
from nemo_pi.errors import ConfigError
from nemo_pi.families.lora import INITS, LINEARS, VARIANTS, Lora
from nemo_pi.families.shape import ModelShape

_LORA = "lora"
_KEY = "model.peft.lora_tuning"


def resolve_peft(
    model: ModelConfig, shape: ModelShape, summary: CheckpointSummary | None, *, dry_run: bool
) -> Lora | None:
    """What `model.peft` asks for; None where all weights are trained.

    Args:
        model: the section.
        shape: of the model.
        summary: of the checkpoint that the run starts from.
        dry_run: whether a checkpoint may still be missing.

    Raises:
        ConfigError: an unknown name or an impossible number, no weights to train adapters beside, or layers
            that take none.
    """
    peft = model.peft
    if peft is None or peft.peft_scheme is None:
        if model.export.peft_path is not None:
            raise ConfigError(
                "model.export.peft_path",
                required="null where no adapters are trained (model.peft)",
                given=repr(model.export.peft_path),
                fix="model.export.peft_path=null; model.export.hf_path writes whole weights",
            )
        return None
    check_choice("model.peft.peft_scheme", peft.peft_scheme, (_LORA,))
    tuning = peft.lora_tuning
    check_choice(f"{_KEY}.variant", tuning.variant, VARIANTS)
    check_choice(f"{_KEY}.column_init_method", tuning.column_init_method, INITS)
    _check_numbers(tuning, shape)
    linears = _linears(tuning.target_modules)
    if summary is None and not dry_run:
        raise ConfigError(
            "model.peft",
            required="a checkpoint whose weights adapters are trained beside (restore_from_path)",
            given="random weights",
            fix="give restore_from_path, or train all weights: model.peft=null",
        )
    if str(model.transformer_engine).lower() == "true":
        raise ConfigError(
            "model.transformer_engine",
            required="auto or false with model.peft: Transformer Engine's fused layers keep the normed input "
            "to themselves, which adapters read",
            given=True,
            fix="model.transformer_engine=false",
        )
    return Lora(
        dim=tuning.adapter_dim,
        alpha=float(tuning.adapter_dim if tuning.alpha is None else tuning.alpha),
        linears=linears,
        variant=tuning.variant,
        dropout=tuning.adapter_dropout,
        init=tuning.column_init_method,
        embeddings_and_norms=peft.train_embeddings_and_norms,
        seed=model.seed,
    )


def _check_numbers(tuning: LoraConfig, shape: ModelShape) -> None:
    if not 1 <= tuning.adapter_dim <= shape.hidden_size:
        raise ConfigError(
            f"{_KEY}.adapter_dim",
            required=f"a rank from 1 to the model's width, {shape.hidden_size}",
            given=tuning.adapter_dim,
            fix=f"{_KEY}.adapter_dim={min(8, shape.hidden_size)}, or model.peft=null to train no adapters",
        )
    if tuning.alpha is not None and tuning.alpha <= 0:
        raise ConfigError(
            f"{_KEY}.alpha",
            required="more than 0: what an adapter adds is multiplied by alpha ÷ adapter_dim",
            given=tuning.alpha,
            fix=f"{_KEY}.alpha=null takes adapter_dim, which multiplies by 1",
        )
    if not 0 <= tuning.adapter_dropout < 1:
        raise ConfigError(
            f"{_KEY}.adapter_dropout",
            required="a part from 0 up to, but not, 1",
            given=tuning.adapter_dropout,
            fix=f"{_KEY}.adapter_dropout=0 leaves nothing out",
        )


def _linears(modules: list[str]) -> tuple[str, ...]:
    wanted: set[str] = set()
    for name in modules:
        wanted.update(named_linears(f"{_KEY}.target_modules", name, fix=f"{_KEY}.target_modules=[all]"))
    if not wanted:
        raise ConfigError(
            f"{_KEY}.target_modules",
            required="at least one kind of linear layer",
            given="none",
            fix=f"{_KEY}.target_modules=[attention_qkv], or model.peft=null to train no adapters",
        )
    return tuple(linear for linear in LINEARS if linear in wanted)
