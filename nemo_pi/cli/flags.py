"""Flags that command lines over a checkpoint share: how it is read, and how it is laid out over ranks."""

from __future__ import annotations

import argparse
from pathlib import Path

from nemo_pi.bounded.files import BoundedReader
from nemo_pi.checkpoint.end_tokens import stated_end_ids
from nemo_pi.checkpoint.hf.tokenizer import has_tokenizer
from nemo_pi.checkpoint.manifest import TOKENIZER_FOLDER
from nemo_pi.config.parallelism import resolve_layout
from nemo_pi.config.schema import ModelConfig
from nemo_pi.data.tokenizer import Tokenizer
from nemo_pi.errors import CheckpointError, ConfigError, DataError
from nemo_pi.families.shape import ModelShape
from nemo_pi.parallel import launcher
from nemo_pi.parallel.layout import ParallelLayout

_MOST_TEXT_BYTES = 1 << 26

LAYOUT_FLAGS = {
    "tensor_model_parallel_size": "ranks that share each layer's matrices",
    "pipeline_model_parallel_size": "ranks that the layers are dealt over",
    "context_parallel_size": "ranks that share each sequence",
}
"""Flags (with dashes) that mean what the keys of a YAML's model section mean, and what they set."""


def add_layout_flags(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds flags of LAYOUT_FLAGS, all of them by default, to a command line."""
    for name in names or LAYOUT_FLAGS:
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=int, default=1, help=f"{LAYOUT_FLAGS[name]} (default 1)")


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Adds flags that say how a checkpoint is read."""
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of weights and activations (default float32, however they are stored)",
    )
    parser.add_argument("--tokenizer", type=Path, help="folder of the tokenizer (default: the checkpoint's)")


def text_of(path: Path) -> str:
    """A text file's content; a pipe's, too, as long as it ends.

    Raises:
        DataError: no such file, one that is not UTF-8, or one longer than any prompt.
    """
    try:
        with path.open("rb") as stream:
            data = BoundedReader(stream, _MOST_TEXT_BYTES).read()
        return data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, ValueError) as error:
        raise DataError(
            str(path), required="a text file in UTF-8", given=error, fix="check the path and the file"
        ) from error


def tokenizer_folder(given: Path | None, checkpoint: Path) -> Path:
    """The tokenizer's folder: the one given, else where checkpoints of either kind carry it.

    Raises:
        CheckpointError: there is no such checkpoint. ConfigError: it carries no tokenizer.
    """
    if not checkpoint.is_dir():
        raise CheckpointError(
            str(checkpoint),
            required="the folder of a checkpoint",
            given="no such folder",
            fix="give a Hugging Face folder or a distributed checkpoint",
        )
    if given is not None:
        return given
    for folder in (checkpoint / TOKENIZER_FOLDER, checkpoint):
        if has_tokenizer(folder):
            return folder
    raise ConfigError(
        "--tokenizer",
        required=f"a folder with a tokenizer: {checkpoint} carries none",
        given="nothing",
        fix="give the folder of the tokenizer that the model was trained with",
    )


def end_ids(checkpoint: Path, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Tokens that end a generated text: those that the checkpoint names, else the tokenizer's one.

    Raises:
        CheckpointError: its files name something else.
    """
    stated = stated_end_ids(checkpoint)
    if stated:
        return stated
    return () if tokenizer.eod_id is None else (tokenizer.eod_id,)


def layout_of(args: object, shape: ModelShape) -> ParallelLayout:
    """The layout that the flags ask for over the ranks that were launched.

    Args:
        args: has those of LAYOUT_FLAGS that can be asked for as attributes.
        shape: of the model.

    Raises:
        ConfigError: a size that does not divide the model or the ranks.
    """
    sizes = {name: getattr(args, name) for name in LAYOUT_FLAGS if hasattr(args, name)}
    return resolve_layout(ModelConfig(**sizes), shape, launcher.launched_world_size())
