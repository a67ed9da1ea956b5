"""A .nemo file read as data: members checked by name, the configuration by key, the weights as tensors."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf
from torch import Tensor

from nemo_pi.bounded.files import BoundedReader, open_regular
from nemo_pi.bounded.yaml_text import MOST_BYTES, check_yaml
from nemo_pi.checkpoint.safe_pickle import load_archive
from nemo_pi.errors import CheckpointError
from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape

CONFIG_MEMBER = "model_config.yaml"
WEIGHTS_MEMBER = "model_weights.ckpt"

# What the class has been called in archives since 0.1.
OUR_CLASSES = ("nemo_pi.nemo.module.ContextExtensionModel", "nemo_pi.training.module.ContextExtensionModel")

# Keys by which NeMo, Hydra and transformers are told to import or to build something.
CODE_KEYS = frozenset(
    ("_target_", "_partial_", "_args_", "_recursive_", "_convert_", "target", "cls", "params")
    + ("trust_remote_code", "auto_map")
)

_EXTRA_STATE = "._extra_state"

_MAX_HEADER_BYTES = 1 << 16
"""Of a tar header, long names included."""


def classes_of(cls: type) -> tuple[str, ...]:
    """What a `target` may say where `cls` is restored: its own name, or one that ours has had."""
    return (*OUR_CLASSES, f"{cls.__module__}.{cls.__qualname__}")


def read_config(path: Path, classes: tuple[str, ...] = OUR_CLASSES) -> dict[str, Any]:
    """The model section in an archive, as plain values; no class in it is named but those in `classes`.

    Raises:
        CheckpointError: no archive, other members, no plain YAML, or a key that names code.
    """
    with opened_archive(path) as archive, _member(archive, CONFIG_MEMBER, path) as stream:
        return _parsed(stream, f"{path}: {CONFIG_MEMBER}", classes)


def read_config_file(path: Path, classes: tuple[str, ...] = OUR_CLASSES) -> dict[str, Any]:
    """The same from a YAML file outside an archive.

    Raises:
        CheckpointError: no such file, no plain YAML, or a key that names code.
    """
    try:
        with open_regular(path.expanduser()) as stream:
            return _parsed(stream, str(path), classes)
    except (OSError, ValueError) as error:
        raise refused(path, "a YAML file", error) from error


def read_weights(path: Path) -> dict[str, Tensor | None]:
    """The tensors in an archive, on the CPU.

    Raises:
        CheckpointError: no archive, other members, or anything in it but named tensors.
    """
    with opened_archive(path) as archive, _member(archive, WEIGHTS_MEMBER, path) as stream:
        return checked_tensors(load_archive(stream, f"{path}: {WEIGHTS_MEMBER}"), path)  # type: ignore[arg-type]


def _parsed(stream: IO[bytes], name: str, classes: tuple[str, ...]) -> dict[str, Any]:
    """YAML without tags, anchors and interpolations, in which no key names code."""
    try:
        # save_to writes some 80 keys in 3 levels, and neither anchors nor tags.
        text = check_yaml(stream.read(MOST_BYTES + 1), anchors=False, tags=False)
        values = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except Exception as error:  # yaml and OmegaConf raise families of their own
        raise refused(name, "a plain YAML mapping", error) from error
    if not isinstance(values, dict):
        raise refused(name, "a YAML mapping", type(values).__name__)
    check_model_config(values, name, classes)
    return {str(key): value for key, value in values.items()}


def check_model_config(values: Mapping[Any, Any], name: str, classes: tuple[str, ...] = OUR_CLASSES) -> None:
    """Refuses a model section that names code anywhere.

    Args:
        values: plain values, nested in any way.
        name: of the file that they come from, for messages.
        classes: the only values of a `target` at the top, where NeMo records what it saved.
    """
    for path, key, value in _entries(values, ""):
        if isinstance(value, str) and "${" in value:
            raise refused(name, "values, not interpolations", f"{path}: {value}")
        if key == "target" and path == key and value in classes:
            continue
        if key in CODE_KEYS:
            given = f"{path}: {value!r}"
            raise refused(name, "a configuration that names values, never code", given[:200])


def _entries(values: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """(dotted path, last key, value) of everything in nested mappings and lists."""
    items: Any = ()
    if isinstance(values, Mapping):
        items = [(f"{path}.{key}" if path else str(key), str(key), value) for key, value in values.items()]
    elif isinstance(values, list | tuple):
        items = [(f"{path}[{index}]", "", value) for index, value in enumerate(values)]
    for where, key, value in items:
        yield where, key, value
        yield from _entries(value, where)


@contextmanager
def opened_archive(path: Path) -> Iterator[tarfile.TarFile]:
    """An archive that holds the two members of a .nemo file, each once and as a plain file."""
    try:
        with open_regular(path) as stream:
            bounded = BoundedReader(stream, _MAX_HEADER_BYTES)
            # "r:" alone: a compressed archive can hold any amount in a few bytes, and NeMo writes none.
            with tarfile.open(fileobj=bounded, mode="r:") as archive:  # type: ignore[call-overload]
                _check_members(archive, path)
                bounded.most = None
                yield archive
    except FileNotFoundError:
        raise refused(path, "an existing file", "no such file") from None
    except CheckpointError:
        raise
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise refused(path, "a .nemo file: an uncompressed tar archive", error) from error


def _check_members(archive: tarfile.TarFile, path: Path) -> None:
    seen: set[str] = set()
    for member in archive:
        name = member.name.removeprefix("./")
        if member.isdir() and name in ("", "."):
            continue
        plain = member.isreg() and not member.issparse()
        if name not in (CONFIG_MEMBER, WEIGHTS_MEMBER) or name in seen or not plain:
            required = f"{CONFIG_MEMBER} and {WEIGHTS_MEMBER}, each once and as a plain file"
            raise refused(path, required, member.name)
        seen.add(name)


def _member(archive: tarfile.TarFile, name: str, path: Path) -> IO[bytes]:
    for member in archive.getmembers():
        if member.name.removeprefix("./") == name:
            stream = archive.extractfile(member)
            assert stream is not None, "members are plain files"
            return stream
    raise refused(path, f"a member {name}", "none")


def checked_tensors(state: Any, path: Path) -> dict[str, Tensor | None]:
    """A state dict of named tensors, without the states that its modules would unpickle.

    Names become file names where NeMo splits a state dict by module: nothing but words and dots.
    """
    if not isinstance(state, dict):
        raise refused(path, "named tensors", type(state).__name__)
    for name, value in state.items():
        if not isinstance(name, str) or not name.replace(".", "_").isidentifier():
            raise refused(path, "names of parameters", repr(name))
        if value is not None and not isinstance(value, Tensor):
            raise refused(path, "named tensors", f"{name}: {type(value).__name__}")
    # Transformer Engine unpickles the bytes in these itself, without restriction. They hold FP8 scaling
    # histories only, which build up again within some steps, so none is ever handed to it.
    return {name: None if name.endswith(_EXTRA_STATE) else value for name, value in state.items()}


def refused(path: Path | str, required: str, given: Any, member: str | None = None) -> CheckpointError:
    """The error of a file, or of a member of it, that holds something else than it should."""
    return CheckpointError(
        str(path) if member is None else f"{path}: {member}",
        required=required,
        given=given,
        fix="give a file that save_to wrote, from someone you trust; nothing in this one was run",
    )


def check_holds(shape: ModelShape, weights: Mapping[str, Tensor | None], path: Path) -> None:
    """Refuses a shape of more parameters than the weights beside it have, before a model of it is built.

    Raises:
        CheckpointError: naming both numbers.
    """
    held = sum(tensor.numel() for tensor in weights.values() if tensor is not None)
    wanted = family_of(shape).num_parameters(shape)
    if wanted > held:
        required = f"a model of at most {held:,} parameters, which {WEIGHTS_MEMBER} holds"
        raise refused(path, required, f"{wanted:,}", CONFIG_MEMBER)
