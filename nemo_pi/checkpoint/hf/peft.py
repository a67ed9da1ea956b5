"""Adapters as a folder that `peft` loads beside their base, written whole or not at all.

adapter_config.json and adapter_model.safetensors are peft's; config.json beside them is the base's with the
positions that the adapters were trained at. Weights are those of the run, nothing is rounded: B's rows are
unfused as its layer's are, and where NeMo's variant has one A for several of Hugging Face's projections, each
gets a copy of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from nemo_pi.checkpoint.collective import Group, on_first, together
from nemo_pi.checkpoint.files import real_folder, sync_path, write_json
from nemo_pi.checkpoint.hf.gather import Key, ModelGroups, gathered_tensors, local_parameters
from nemo_pi.checkpoint.hf.load import global_layers
from nemo_pi.checkpoint.hf.source import HuggingFaceSource
from nemo_pi.checkpoint.hf.target import check_target, write_side_files
from nemo_pi.checkpoint.space import check_space
from nemo_pi.checkpoint.whole import written_whole
from nemo_pi.errors import CheckpointError
from nemo_pi.families.export import AUTO, export_form
from nemo_pi.families.fusion import stored_order
from nemo_pi.families.lora import Lora, adapter_rules
from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.weights import LAYER, WeightRule, split_name
from nemo_pi.rope.spec import ContextExtension

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""peft's names of its files."""
_PREFIX = "base_model.model."
Rows = list[tuple[WeightRule, int | None]]


def check_peft_export(shape: ModelShape, extension: ContextExtension) -> None:
    """Whether the base's own class in transformers can compute the positions: adapters have no other.

    Raises:
        CheckpointError: it cannot, or transformers has no such class.
        ConfigError: as export_form.
    """
    form = export_form(shape, extension, AUTO)
    if form.shape != shape:
        own = family_of(shape)
        lacks = f"transformers has no {own.architecture}" if own.remote_code else "it cannot"
        raise CheckpointError(
            "model.export.peft_path",
            required=f"null, where {own.architecture} in transformers does not compute these positions",
            given=f"adapters of a model of that class; {lacks}",
            fix="model.export.hf_path=FOLDER model.export.peft_path=null writes them merged, "
            + form.describe(),
        )


def export_peft(
    model_chunks: Sequence[nn.Module],
    shape: ModelShape,
    extension: ContextExtension,
    folder: str | Path,
    *,
    lora: Lora,
    base_path: Path,
    source_config: Mapping[str, Any] | None = None,
    tokenizer_path: str | Path | None = None,
    groups: ModelGroups | None = None,
    replica_rank: int = 0,
    world: Group = None,
    overwrite: bool = False,
) -> Path:
    """Writes adapters and what is trained beside them; collective over every rank.

    Args:
        model_chunks: this rank's chunks, with their adapters.
        shape, extension: of the whole model.
        folder: to write; must not exist, unless an earlier export wrote it or `overwrite` is set.
        lora: which adapters they are.
        base_path: the checkpoint whose weights they stand beside.
        source_config, tokenizer_path, groups, replica_rank, world: as export_huggingface's.
        overwrite: whether a folder that no export wrote is replaced.

    Returns:
        `folder`.

    Raises:
        CheckpointError: on every rank, if any rank failed; nothing of the export is left.
    """
    folder, groups = real_folder(folder), groups or ModelGroups()
    together(str(folder), lambda: check_peft_export(shape, extension), world)
    source = None if source_config is None else HuggingFaceSource.from_dict(source_config)
    local = together(str(folder), lambda: _local(model_chunks, lora, shape), world)

    def check() -> None:
        check_target(folder, overwrite=overwrite)
        check_space(folder.parent, sum(tensor.nbytes for tensor in local.values()), "this export")

    with written_whole(folder, "export", check=check, group=world) as partial:

        def stream() -> None:
            order = stored_order(extension, family_of(shape).interleaved)
            gathered = gathered_tensors(local, shape, groups, order, rows=_rows(lora, shape))
            held = {name: tensor for name, tensor in gathered if tensor is not None}
            if groups.is_writer:
                save_file(_as_peft(held, lora, shape), partial / WEIGHTS, metadata={"format": "pt"})
                sync_path(partial / WEIGHTS)

        def describe() -> None:
            write_json(partial / CONFIG, peft_config(lora, shape, base_path))
            write_side_files(partial, shape, extension, source, tokenizer_path, None)

        together(str(folder), stream if replica_rank == 0 else lambda: None, world)
        on_first(str(folder), describe, world)
    return folder


def peft_config(lora: Lora, shape: ModelShape, base_path: Path) -> dict[str, Any]:
    """adapter_config.json.

    Args:
        lora: which adapters.
        shape: of the model.
        base_path: what `peft` is told of the base's place.
    """
    alpha = int(lora.alpha) if lora.alpha.is_integer() else lora.alpha
    kept = [rule for rule, _ in _kept_rows(lora, shape)]
    modules = sorted({_module(name).rpartition(".")[2] for rule in kept for name in rule.huggingface})
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base_path),
        "r": lora.dim,
        "lora_alpha": alpha,
        "lora_dropout": lora.dropout,
        "target_modules": _target_modules(lora, shape),
        "modules_to_save": modules or None,
        # Without it the output layer would keep the base's embedding.
        **({"ensure_weight_tying": True} if modules and shape.tied_embeddings else {}),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "inference_mode": True,
    }


def _target_modules(lora: Lora, shape: ModelShape) -> list[str]:
    """The last part of each module's name, or more of it where another layer's ends alike."""
    ours = {_inner(name) for rules in adapter_rules(lora, shape) for name in rules.weight.huggingface}
    every = {_inner(name) for rule in family_of(shape).layer_rules(shape) for name in rule.huggingface}
    leaves = [module.rpartition(".")[2] for module in every - ours]
    return sorted(
        module if module.rpartition(".")[2] in leaves else module.rpartition(".")[2] for module in ours
    )


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def _inner(tensor: str) -> str:
    """The name of a module within its layer."""
    return _module(tensor).partition("{n}.")[2]


def _kept_rows(lora: Lora, shape: ModelShape) -> Rows:
    """Parameters of the model itself that are trained, in export order."""
    return [
        (rule, layer) for rule, layer in family_of(shape).export_order(shape) if lora.trains(rule.megatron)
    ]


def _rows(lora: Lora, shape: ModelShape) -> Rows:
    rules = adapter_rules(lora, shape)
    adapters: Rows = [
        (rule, layer) for layer in range(shape.num_layers) for one in rules for rule in (one.a, one.b)
    ]
    return adapters + _kept_rows(lora, shape)


def _local(model_chunks: Sequence[nn.Module], lora: Lora, shape: ModelShape) -> dict[Key, Tensor]:
    """This rank's adapters, and its other parameters, by (table name, global layer number)."""
    found = dict(_adapters(model_chunks))
    rules = adapter_rules(lora, shape)
    wanted = {rule.megatron for one in rules for rule in (one.a, one.b)}
    if wanted != {name for name, _ in found}:
        raise CheckpointError(
            "model.export.peft_path",
            required="a model with adapters",
            given="one without, or with others",
            fix="export the model that was trained with model.peft",
        )
    return found | local_parameters(model_chunks, shape)


def _adapters(model_chunks: Sequence[nn.Module]) -> Iterator[tuple[Key, Tensor]]:
    for chunk in model_chunks:
        numbers = global_layers(chunk)
        for name, parameter in chunk.named_parameters():
            table, local = split_name(name)
            if local is not None and table.startswith(LAYER) and ".adapter." in table:
                yield (table, numbers[local]), parameter.data


def _as_peft(held: dict[str, Tensor], lora: Lora, shape: ModelShape) -> dict[str, Tensor]:
    """The tensors under peft's names, with a copy of a shared A for each projection that reads it, and of a
    trained embedding for an output layer that is the same: `peft` looks for both."""
    found = {f"{_PREFIX}{name}": tensor for name, tensor in held.items()}
    (embedding,), (output,) = (family_of(shape).embedding.huggingface, family_of(shape).output.huggingface)
    if shape.tied_embeddings and embedding in held:
        found[f"{_PREFIX}{output}"] = held[embedding].clone()
    for layer in range(shape.num_layers):
        for rules in adapter_rules(lora, shape):
            stored = dict.fromkeys(rules.b.names(layer))
            sources = dict(zip(rules.b.names(layer), rules.sources, strict=True))
            names = rules.a.names(layer)
            for name in stored:
                own = name.replace(".lora_B.", ".lora_A.")
                found[f"{_PREFIX}{own}"] = held[names[sources[name]]].clone()
    return found
