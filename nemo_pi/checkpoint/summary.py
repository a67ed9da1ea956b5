"""What kind of checkpoint a path holds and what it says of itself, before any weight is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint import TensorStorageMetadata

from nemo_pi.bounded.places import exists
from nemo_pi.checkpoint.base import AdapterRecord, check_present
from nemo_pi.checkpoint.files import read_json
from nemo_pi.checkpoint.hf.config import extension_from_config, shape_from_config, window_source
from nemo_pi.checkpoint.hf.folder import HuggingFaceWeights, has_safetensors
from nemo_pi.checkpoint.hf.load import check_weights
from nemo_pi.checkpoint.hf.source import HuggingFaceSource
from nemo_pi.checkpoint.hf.tokenizer import has_tokenizer
from nemo_pi.checkpoint.manifest import (
    MANIFEST,
    METADATA_FILE,
    TOKENIZER_FOLDER,
    check_sizes,
    read_manifest,
)
from nemo_pi.checkpoint.safe_pickle import read_metadata
from nemo_pi.errors import CheckpointError, ConfigError, nearest_path
from nemo_pi.families.lora import ADAPTER, num_adapted
from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.spec import ContextExtension

_LOCAL = "give a local one: nothing is downloaded"


@dataclass(frozen=True)
class CheckpointSummary:
    """The facts a run plan needs of the checkpoint it starts from."""

    kind: str
    """`huggingface` (a folder with config.json and safetensors) or `distributed` (Megatron's format)."""
    path: Path
    """Where it was found."""
    shape: ModelShape
    """Sizes of the model."""
    extension: ContextExtension
    """How its positions are made; method `none` unless it has been extended before."""
    window_source: str
    """Where the original window was read, for the printed plan (file and key)."""
    tokenizer_path: Path | None = None
    """Folder with tokenizer files, if the checkpoint carries them."""
    dtype: str = "float32"
    """Storage dtype of the weights."""
    global_step: int = 0
    """Optimizer steps behind it (0 for a Hugging Face folder)."""
    consumed_samples: int = 0
    """Training samples behind it (0 for a Hugging Face folder)."""
    adapter: AdapterRecord | None = None
    """What was trained, and beside which weights, where it holds adapters alone; None: a whole model."""


def read_summary(path: str | Path) -> CheckpointSummary:
    """Reads a Hugging Face folder or a distributed checkpoint far enough to plan a run from it.

    Headers only: every tensor's name and shape is checked, no weight is loaded.

    Raises:
        CheckpointError: nothing there, neither kind, incomplete, damaged or not supported.
    """
    folder = Path(path).expanduser()
    if not exists(folder) or not str(path):
        raise _unreadable(
            folder,
            "an existing folder",
            "no such path",
            f"did you mean {near}?" if len(str(folder)) < 300 and (near := nearest_path(folder)) else _LOCAL,
        )
    if not folder.is_dir():
        raise _unreadable(folder, "a folder", "a file", "give a Hugging Face folder or a distributed one")
    if (folder / MANIFEST).is_file():
        return _distributed(folder)
    if (folder / "config.json").is_file() and not _is_peft(folder):
        return _huggingface(folder)
    raise _unreadable(folder, f"config.json (Hugging Face) or {MANIFEST} (distributed)", *_found(folder))


def _huggingface(folder: Path) -> CheckpointSummary:
    config = read_json(folder / "config.json")
    shape = shape_from_config(config)
    extension = extension_from_config(config, shape)
    weights = HuggingFaceWeights(folder)
    check_weights(weights, shape)
    return CheckpointSummary(
        kind="huggingface",
        path=folder,
        shape=shape,
        extension=extension,
        window_source=f"{folder / 'config.json'}: {window_source(config, extension)}",
        tokenizer_path=folder if has_tokenizer(folder) else None,
        # Of the first tensor, the embedding: norms may be stored wider than the rest.
        dtype=weights.dtypes[next(iter(family_of(shape).tensors(shape)))],
    )


def _distributed(folder: Path) -> CheckpointSummary:
    manifest = read_manifest(folder)
    check_sizes(folder, manifest)
    tokenizer = folder / TOKENIZER_FOLDER
    shape, extension = _recorded(folder, manifest)
    listed = read_metadata(folder / METADATA_FILE).state_dict_metadata
    record = AdapterRecord.from_manifest(manifest, folder)
    _check_size(folder, shape, listed, record)
    return CheckpointSummary(
        kind="distributed",
        path=folder,
        shape=shape,
        extension=extension,
        window_source=f"{folder / MANIFEST}: extension.original_window",
        tokenizer_path=tokenizer if has_tokenizer(tokenizer) else None,
        dtype=_stored_dtype(folder, listed),
        global_step=int(manifest["global_step"]),
        consumed_samples=int(manifest["consumed_samples"]),
        adapter=record,
    )


def _check_size(
    folder: Path, shape: ModelShape, listed: Mapping[str, Any], record: AdapterRecord | None
) -> None:
    """Refuses a shape of more parameters than are listed, and a listing of more than the files can hold."""
    tensors = [tensor for name, tensor in _weights(listed)]
    numbers = [prod(tensor.size) for tensor in tensors]
    held = sum(file.stat().st_size for file in folder.glob("*.distcp"))
    claimed = sum(n * tensor.properties.dtype.itemsize for n, tensor in zip(numbers, tensors, strict=True))
    fix = "restore the files from a copy: they do not belong to one model"
    if claimed > held:
        required = f"tensors of at most {held:,} bytes, which its .distcp files have"
        raise _unreadable(folder / METADATA_FILE, required, f"{claimed:,} bytes", fix)
    # Whether the base has a model's other parameters is seen where it is opened.
    wanted = family_of(shape).num_parameters(shape) if record is None else num_adapted(record.lora, shape)
    if wanted > sum(numbers):
        required = f"a model of at most {sum(numbers):,} parameters, which {METADATA_FILE} lists"
        raise _unreadable(f"{folder / MANIFEST}: shape", required, f"{wanted:,}", fix)


def _weights(listed: Mapping[str, Any]) -> Iterator[tuple[str, TensorStorageMetadata]]:
    """The weights in a listing, without the optimizer's copies of them."""
    for name, tensor in listed.items():
        if isinstance(tensor, TensorStorageMetadata) and not name.startswith("optimizer"):
            yield name, tensor


def _stored_dtype(folder: Path, listed: Mapping[str, Any]) -> str:
    """Storage dtype of the weights, or of the adapters where there are no others."""
    for name, tensor in _weights(listed):
        if name.endswith("embedding.word_embeddings.weight") or f".{ADAPTER}" in name:
            return str(tensor.properties.dtype).removeprefix("torch.")
    raise _unreadable(folder, "a GPT's weights", "no embedding", "give a checkpoint of a whole model")


def _recorded(folder: Path, manifest: dict[str, Any]) -> tuple[ModelShape, ContextExtension]:
    try:
        return ModelShape.from_dict(manifest["shape"]), ContextExtension.from_dict(manifest["extension"])
    except (TypeError, KeyError, ConfigError) as error:
        place = folder / MANIFEST
        if isinstance(error, ConfigError) and error.field == "method":
            # A method of another package: the file is whole, the package is missing.
            raise _unreadable(f"{place}: method", error.required, error.given, error.fix) from error
        required, fix = "shape and extension of a model", "restore the file from a copy"
        raise _unreadable(place, required, str(error), fix) from error


def read_base(checkpoint: CheckpointSummary) -> CheckpointSummary:
    """The base of a checkpoint of adapters, by its headers; its contents are for check_base to compare.

    Raises:
        CheckpointError: it is not there any more, or is another model.
    """
    record = checkpoint.adapter
    assert record is not None, "it is a whole model"
    check_present(record, checkpoint.path)
    if record.base_path.resolve() == checkpoint.path.resolve():
        raise _unreadable(
            checkpoint.path, "another checkpoint as its base", "itself", "restore it from a copy"
        )
    base = read_summary(record.base_path)
    if base.shape != checkpoint.shape:
        raise _unreadable(
            record.base_path,
            f"the base of {checkpoint.path}, a model of its shape",
            "a model of another shape",
            "put back the folder that it was trained from",
        )
    return base


def read_source_config(path: str | Path) -> dict[str, Any] | None:
    """What the Hugging Face folder behind a checkpoint of either kind said; None if it does not say.

    JSON-ready: it goes into a distributed checkpoint's manifest (meta["source_config"]) and into
    export_huggingface, so that nothing the original said is lost on the way.
    """
    folder = Path(path).expanduser()
    if (folder / MANIFEST).is_file():
        source = read_manifest(folder).get("source_config")
        return source if isinstance(source, dict) else None
    return HuggingFaceSource.read(folder).to_dict() if (folder / "config.json").is_file() else None


def _is_peft(folder: Path) -> bool:
    # Whole weights beside them count: transformers, too, reads those.
    return (folder / "adapter_config.json").is_file() and not has_safetensors(folder)


def _found(folder: Path) -> tuple[str, str]:
    if any(folder.glob(f"*/{MANIFEST}")):
        return "a folder of several checkpoints", "give one of the checkpoints inside it"
    if _is_peft(folder):
        command = "python examples/convert_checkpoint.py CHECKPOINT NEW_FOLDER"
        return "a PEFT adapter", (
            "give the checkpoint of the run that exported it, or the folder that merges it with its base, by "
            f"{command}; of an adapter from elsewhere, what peft's merge_and_unload() returns, saved"
        )
    if (folder / "metadata.json").is_file():
        return "an incomplete or foreign distributed checkpoint", "give one that was saved completely"
    if any(folder.glob("*.gguf")):
        command = f"python examples/convert_checkpoint.py {folder}/NAME.gguf NEW_FOLDER"
        return "GGUF files", f"make a folder to start from: {command}"
    return "neither", "give the folder that holds one of them"


def _unreadable(place: Path | str, required: str, given: str, fix: str) -> CheckpointError:
    return CheckpointError(str(place), required=required, given=given, fix=fix)
