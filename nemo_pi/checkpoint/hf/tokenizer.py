"""The files beside the weights: tokenizer and generation defaults, kept in step with the window."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.files import own_file, read_json, sync_path, write_json
from nemo_pi.checkpoint.hf.sentencepiece_json import write_tokenizer_json
from nemo_pi.errors import CheckpointError
from nemo_pi.families.inert import without_code

logger = logging.getLogger(__name__)

TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"

SENTENCEPIECE = "tokenizer.model"

# Any one of these makes a tokenizer; the others only accompany them.
_VOCABULARIES = ("tokenizer.json", SENTENCEPIECE, "vocab.json", "tekken.json")
_COMPANIONS = (
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    TOKENIZER_CONFIG,
)
_CONFIGURATIONS = (TOKENIZER_CONFIG, "special_tokens_map.json", "chat_template.json")
# Named templates beside the default one, each a file NAME.jinja.
_TEMPLATES = "additional_chat_templates"


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer of any known kind."""
    return any((folder / name).is_file() for name in _VOCABULARIES)


def tokenizer_folder(path: str | Path) -> Path:
    """The folder of a tokenizer, given it or one of its files.

    Raises:
        CheckpointError: there is no tokenizer.
    """
    folder = Path(path).expanduser()
    folder = folder.parent if folder.is_file() else folder
    if not has_tokenizer(folder):
        raise CheckpointError(
            "tokenizer_path",
            required="a folder with one of " + ", ".join(_VOCABULARIES),
            given=path,
            fix="give the folder that the tokenizer was saved to",
        )
    return folder


def tokenizer_files(path: str | Path) -> dict[str, Path]:
    """The files of a tokenizer by the names that they have in a Hugging Face folder.

    Args:
        path: the folder, or one file of it. A file of another name than Hugging Face's stands alone:
            `name.json` for a tokenizer.json, anything else for a sentencepiece tokenizer.model.

    Raises:
        CheckpointError: there is no tokenizer.
    """
    given = Path(path).expanduser()
    if _stands_alone(given):
        return {"tokenizer.json" if given.suffix == ".json" else SENTENCEPIECE: given}
    folder = tokenizer_folder(given)
    templates = sorted((folder / _TEMPLATES).glob("*.jinja"))
    names = (*_VOCABULARIES, *_COMPANIONS, *(f"{_TEMPLATES}/{template.name}" for template in templates))
    return {name: folder / name for name in names if (folder / name).is_file()}


def _stands_alone(path: Path) -> bool:
    return path.is_file() and path.name not in _VOCABULARIES


def copy_tokenizer(source: str | Path, target: Path, *, max_length: int | None = None) -> None:
    """Copies tokenizer files (never code) into a folder.

    Args:
        source: as tokenizer_files.
        target: an existing folder.
        max_length: tokens to write as `model_max_length`, of which inference servers take the minimum
            with the model's window; None copies it as it is.

    Raises:
        CheckpointError: a file is a link that leaves the folder.
    """
    source = Path(source).expanduser()
    # A file that its user names is meant, wherever it lies; what lies in a folder may be a stranger's.
    folder = None if _stands_alone(source) else tokenizer_folder(source)
    files = tokenizer_files(source)
    for name, file in files.items():
        (target / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(file if folder is None else own_file(file, folder), target / name)
        sync_path(target / name)
        if name in _CONFIGURATIONS:
            values = read_json(target / name)
            if without_code(values) != values:  # else the very bytes stay
                write_json(target / name, without_code(values))
    if SENTENCEPIECE in files and not {"tokenizer.json", TOKENIZER_CONFIG} & set(files):
        try:
            write_tokenizer_json(target / SENTENCEPIECE, target)
        except CheckpointError as error:  # a run is not stopped for it, least of all at its end
            logger.warning("The tokenizer travels as it is, and readers may take it for another: %s", error)
    if max_length is not None:
        path = target / TOKENIZER_CONFIG
        values = read_json(path) if path.is_file() else {}
        write_json(path, {**values, "model_max_length": max_length})


def special_token_ids(folder: Path) -> dict[str, int | None]:
    """bos_token_id, eos_token_id and pad_token_id of a tokenizer.json; None where it has no such token.

    Written out even then: where config.json is silent, transformers takes 1 and 2 for bos and eos.

    Raises:
        CheckpointError: tokenizer.json is none.
    """
    vocabulary = _vocabulary(folder)
    declared: dict[str, Any] = {}
    for name in ("special_tokens_map.json", TOKENIZER_CONFIG):
        if (folder / name).is_file():
            declared |= read_json(folder / name)
    ids: dict[str, int | None] = {}
    for kind in ("bos", "eos", "pad"):
        token = declared.get(f"{kind}_token")
        token = token.get("content") if isinstance(token, dict) else token
        ids[f"{kind}_token_id"] = None if token is None else vocabulary.get(str(token))
    return ids


def _vocabulary(folder: Path) -> dict[str, int]:
    if not (folder / "tokenizer.json").is_file():
        return {}
    values = read_json(folder / "tokenizer.json", vocabulary=True)
    try:
        vocabulary = (values.get("model") or {}).get("vocab")
        known = dict(vocabulary) if isinstance(vocabulary, dict) else {}
        # Special tokens are often added ones, which the vocabulary itself does not list.
        return known | {token["content"]: token["id"] for token in values.get("added_tokens") or []}
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(
            str(folder / "tokenizer.json"),
            required="a tokenizer of the tokenizers library (model.vocab, added_tokens)",
            given=f"{type(error).__name__}: {error}",
            fix="restore this file from its source",
        ) from error


def extended_generation_config(
    source: dict[str, Any], old_window: int | None, new_window: int
) -> dict[str, Any]:
    """generation_config.json for the new window: a `max_length` that was the old window follows it."""
    if old_window is not None and source.get("max_length") == old_window:
        return {**source, "max_length": new_window}
    return dict(source)
