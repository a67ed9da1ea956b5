"""Ranks, batches and sequences: everything that must divide by something else."""

from __future__ import annotations

from nemo_pi.config.schema import ModelConfig
from nemo_pi.config.shapes import check_choice
from nemo_pi.errors import ConfigError
from nemo_pi.families.shape import ModelShape
from nemo_pi.parallel.layout import ParallelLayout

_TP, _PP = "model.tensor_model_parallel_size", "model.pipeline_model_parallel_size"
_VPP, _CP = "model.virtual_pipeline_model_parallel_size", "model.context_parallel_size"
_EXCHANGE = "model.cp_comm_type"


def resolve_layout(model: ModelConfig, shape: ModelShape, world_size: int) -> ParallelLayout:
    """The layout over `world_size` ranks; the data-parallel size is what remains of it.

    Raises:
        ConfigError: a size that does not divide the model or the world.
    """
    tp, pp = model.tensor_model_parallel_size, model.pipeline_model_parallel_size
    cp, vpp = model.context_parallel_size, model.virtual_pipeline_model_parallel_size
    for key, size in ((_TP, tp), (_PP, pp), (_CP, cp), (_VPP, 1 if vpp is None else vpp)):
        if size < 1:
            raise ConfigError(key, required="at least 1", given=size, fix=f"{key}=1 splits nothing")
    _check_tensor_parallel(tp, shape)
    _check_pipeline(pp, vpp or 1, shape.num_layers)
    if model.sequence_parallel and tp == 1:
        raise ConfigError(
            "model.sequence_parallel",
            required=f"{_TP} of 2 or more: it splits the sequence over those ranks",
            given=f"true with {_TP}=1",
            fix="model.sequence_parallel=false, or raise the tensor-parallel size",
        )
    _check_exchange(model, shape)
    dp = _data_parallel(tp, pp, cp, world_size)
    return ParallelLayout(
        tp=tp,
        pp=pp,
        vpp=vpp if vpp and vpp > 1 else None,
        cp=cp,
        cp_comm_type=model.cp_comm_type,
        dp=dp,
        sequence_parallel=model.sequence_parallel,
    )


def resolve_batches(model: ModelConfig, layout: ParallelLayout) -> int:
    """Micro-batches of one data-parallel rank in one optimizer step."""
    micro, total = model.micro_batch_size, model.global_batch_size
    for key, size in (("model.micro_batch_size", micro), ("model.global_batch_size", total)):
        if size < 1:
            raise ConfigError(key, required="at least 1 sample", given=size, fix=f"{key}=1")
    unit = micro * layout.dp
    if total % unit:
        raise ConfigError(
            "model.global_batch_size",
            required=f"a multiple of micro_batch_size × data-parallel size = {micro} × {layout.dp} = {unit}",
            given=total,
            fix=f"model.global_batch_size={max(1, round(total / unit)) * unit}, or another micro_batch_size",
        )
    number = total // unit
    if layout.vpp and number % layout.pp:
        better = -(-number // layout.pp) * layout.pp * unit
        raise ConfigError(
            "model.global_batch_size",
            required=(
                f"a multiple of {layout.pp * unit}: the interleaved schedule needs micro-batches per step "
                f"divisible by {_PP}={layout.pp}"
            ),
            given=f"{total} ({number} micro-batches)",
            fix=f"model.global_batch_size={better}, or {_VPP}=null",
        )
    return number


def check_sequence(length: int, layout: ParallelLayout) -> None:
    """Refuse a training length that cannot be split over context- and tensor-parallel ranks."""
    unit, reasons = layout.sequence_multiple, []
    if layout.cp > 1:
        reasons.append(f"2 × {_CP}={layout.cp}")
    if layout.sequence_parallel:
        reasons.append(f"{_TP}={layout.tp} under sequence_parallel")
    if length % unit:
        raise ConfigError(
            "model.encoder_seq_length",
            required=f"a multiple of {unit} ({' and '.join(reasons)})",
            given=length,
            fix=f"model.encoder_seq_length={max(unit, length // unit * unit)}, or another layout",
        )


def _check_tensor_parallel(tp: int, shape: ModelShape) -> None:
    divided = {
        "num_attention_heads": shape.num_attention_heads,
        "num_query_groups": shape.num_query_groups,
        "ffn_hidden_size": shape.ffn_hidden_size,
    }
    for name, size in divided.items():
        if size % tp:
            smaller = range(1, min(tp, min(divided.values()) + 1))
            sizes = [str(n) for n in smaller if all(value % n == 0 for value in divided.values())]
            raise ConfigError(
                _TP,
                required=f"a divisor of {name}={size}",
                given=tp,
                fix=f"{_TP}={sizes[-1]} (all that fit below {tp}: {', '.join(sizes)})",
            )


def _check_pipeline(pp: int, vpp: int, num_layers: int) -> None:
    if vpp > 1 and pp == 1:
        raise ConfigError(
            _VPP,
            required=f"null while {_PP}=1: it interleaves pipeline stages",
            given=vpp,
            fix=f"{_VPP}=null, or raise the pipeline size",
        )
    if num_layers % (pp * vpp):
        key, size = (_VPP, f"{pp} × {vpp}") if num_layers % pp == 0 else (_PP, str(pp))
        raise ConfigError(
            key,
            required=f"stages that divide num_layers={num_layers} evenly",
            given=f"{size} stages",
            fix=f"{key}={'null' if key == _VPP else 1}, or a size whose number of stages is one of "
            f"{_divisors(num_layers)}",
        )


def _check_exchange(model: ModelConfig, shape: ModelShape) -> None:
    kind, tp, cp = model.cp_comm_type, model.tensor_model_parallel_size, model.context_parallel_size
    if kind is None:
        return
    check_choice(_EXCHANGE, kind, ("all_gather", "p2p", "a2a"))
    if cp == 1:
        raise ConfigError(
            _EXCHANGE,
            required=f"null while {_CP}=1: it says how the context-parallel ranks exchange keys and values",
            given=kind,
            fix=f"{_EXCHANGE}=null, or raise the context-parallel size",
        )
    heads = shape.num_query_groups // tp
    if kind == "a2a" and heads % cp:
        raise ConfigError(
            _EXCHANGE,
            required=f"another than a2a, which deals a rank's key/value heads over {_CP}={cp} ranks",
            given=f"a2a with {heads} key/value heads a rank",
            fix=f"{_EXCHANGE}=p2p, or a context-parallel size that divides {heads}",
        )


def _data_parallel(tp: int, pp: int, cp: int, world_size: int) -> int:
    ranks = tp * pp * cp
    if world_size < 1 or world_size % ranks:
        more = max(ranks, -(-world_size // ranks) * ranks)
        raise ConfigError(
            f"{_TP} × pipeline × context",
            required=f"a divisor of the world size {world_size}; what remains is the data-parallel size",
            given=f"{tp} × {pp} × {cp} = {ranks}",
            fix=f"launch {more} ranks: trainer.devices={more} (times trainer.num_nodes on several nodes; a "
            "launcher's own number counts first), or smaller sizes",
        )
    return world_size // ranks


def _divisors(number: int) -> str:
    return ", ".join(str(size) for size in range(1, number + 1) if number % size == 0)
