"""What a folder's config.json says of positions in several places, compared with itself.

Two readers of one wrong config.json agree with each other. But an export says its positions three times: in
Hugging Face's entries, in their older spelling, and in our record of the extension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.files import read_json
from nemo_pi.checkpoint.hf.config import extension_from_config, shape_from_config
from nemo_pi.errors import NemoPiError
from nemo_pi.families.registry import family_of
from nemo_pi.rope.hf import RECORD
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import attention_factor
from nemo_pi.verification.findings import FAILED, NOTE, OK, Finding

_FACTOR = "attention_factor"
_OLDER = ("rope_scaling", "rope_theta")
TOKENIZER_CONFIG = "tokenizer_config.json"


def config_findings(folder: Path) -> list[Finding]:
    """What a Hugging Face folder's entries say of each other."""
    config = read_json(folder / "config.json")
    return [*_record(config), *_spellings(config), *_formula(config), *_tokenizer(folder, config)]


def _record(config: Mapping[str, Any]) -> Iterator[Finding]:
    check, against = "positions in config.json", f"the record of the extension ({RECORD})"
    record = config.get(RECORD)
    if not isinstance(record, Mapping):
        return
    shape = shape_from_config(config)
    read = extension_from_config(_without(config, RECORD), shape)
    try:
        entries = family_of(shape).extension_entries(ContextExtension.from_dict(record))
    except NemoPiError as error:
        yield Finding(check, against, FAILED, where=f"the record cannot be read: {error}")
        return
    keys = family_of(shape).rope_keys
    meant = extension_from_config(_without({**_without(config, *keys), **entries}, RECORD), shape)
    different = differences(read, meant, "config.json", "the record")
    yield Finding(check, against, FAILED if different else OK, where=different)


def _spellings(config: Mapping[str, Any]) -> Iterator[Finding]:
    """transformers 5 reads rope_parameters, older readers rope_theta and rope_scaling."""
    newer = config.get("rope_parameters")
    if not isinstance(newer, Mapping) or not any(key in config for key in _OLDER):
        return
    shape = shape_from_config(config)
    try:
        one = extension_from_config(_without(config, RECORD, *_OLDER), shape)
        other = extension_from_config(_without(config, RECORD, "rope_parameters"), shape)
        different = differences(one, other, "rope_parameters", "rope_scaling and rope_theta")
    except NemoPiError as error:
        different = str(error)
    yield Finding(
        "positions in config.json", "their older spelling", FAILED if different else OK, where=different
    )


def _formula(config: Mapping[str, Any]) -> Iterator[Finding]:
    """An attention factor that is given may be meant; most are the formula's."""
    spec = extension_from_config(config, shape_from_config(config))
    given = spec.extra_args.get(_FACTOR)
    if given is None:
        return
    others = tuple((name, value) for name, value in spec.extra if name != _FACTOR)
    formula = attention_factor(replace(spec, extra=others), spec.target_window)
    if abs(given - formula) > 1e-6:
        where = f"{given:g} in config.json, {formula:.6g} by the formula of {spec.method}"
        yield Finding("attention factor", "the method's formula", NOTE, where=where)


def _tokenizer(folder: Path, config: Mapping[str, Any]) -> Iterator[Finding]:
    if not (folder / TOKENIZER_CONFIG).is_file():
        return
    longest = read_json(folder / TOKENIZER_CONFIG).get("model_max_length")
    window = extension_from_config(config, shape_from_config(config)).target_window
    if isinstance(longest, int) and longest < window:
        where = f"{longest:,} tokens, below the window of {window:,}: servers take the smaller of the two"
        yield Finding("model_max_length", "the window", NOTE, where=where)


def _without(config: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def differences(one: ContextExtension, other: ContextExtension, first: str, second: str) -> str:
    """The fields that differ, with both values; nothing where none does."""
    ours, theirs = one.to_dict(), other.to_dict()
    return "; ".join(
        f"{name}: {ours.get(name)} in {first}, {theirs.get(name)} in {second}"
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    )
