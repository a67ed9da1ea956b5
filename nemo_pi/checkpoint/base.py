"""What a checkpoint of adapters stands on: where its base model is, and how to know it again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.collective import Group, gather_objects, rank_in, size_of, together
from nemo_pi.checkpoint.files import sha256_of
from nemo_pi.checkpoint.manifest import MANIFEST, read_manifest
from nemo_pi.errors import CheckpointError
from nemo_pi.families.lora import Lora

RECORD = "adapter"
"""Where the manifest of a checkpoint of adapters keeps all this."""
_CONFIG = "config.json"


@dataclass(frozen=True)
class AdapterRecord:
    """What a checkpoint of adapters says of itself."""

    lora: Lora
    """What was trained."""
    base_path: Path
    """The checkpoint whose weights it was trained beside: a Hugging Face folder or a distributed one."""
    base_sha256: str
    """Its base_sha256."""

    def to_dict(self) -> dict[str, Any]:
        """As the manifest holds it."""
        base = {"path": str(self.base_path), "sha256": self.base_sha256}
        return {"lora": self.lora.to_dict(), "base": base}

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any], folder: Path) -> AdapterRecord | None:
        """What a manifest says; None where it is no checkpoint of adapters.

        Raises:
            CheckpointError: an entry that was not made by to_dict.
        """
        if RECORD not in manifest:
            return None
        try:
            entry = manifest[RECORD]
            path, sha256 = entry["base"]["path"], entry["base"]["sha256"]
            if not isinstance(path, str) or not isinstance(sha256, str):
                raise TypeError("path and sha256 of a base are texts")
            return cls(Lora.from_dict(entry["lora"]), Path(path), sha256)
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"{folder / MANIFEST}: {RECORD}",
                required="adapters and the path and sha256 of their base",
                given=error,
                fix="restore this file from a copy",
            ) from error


def base_sha256(folder: Path, group: Group = None) -> str:
    """One SHA-256 for all that a model's weights and positions follow from; all ranks call it together.

    Of a Hugging Face folder it is that of config.json and every safetensors file, which ranks read in
    shares; of a distributed checkpoint that of its manifest's list of hashes, which loading holds the files
    against.

    Raises:
        CheckpointError: on every rank, where any cannot read its share.
    """
    if (folder / MANIFEST).is_file():
        manifest = together(str(folder), lambda: read_manifest(folder), group)
        told = {key: manifest[key] for key in ("files", "shape", "extension")} | (
            {RECORD: manifest[RECORD]} if RECORD in manifest else {}
        )
        return _digest(told)
    names = sorted([_CONFIG, *(path.name for path in folder.glob("*.safetensors"))])
    mine = names[rank_in(group) :: size_of(group)]

    def read() -> dict[str, str]:
        try:
            return {name: sha256_of(folder / name) for name in mine}
        except OSError as error:
            raise CheckpointError(
                str(folder),
                required="a Hugging Face folder that can be read",
                given=error,
                fix="restore its files",
            ) from error

    shares = gather_objects(together(str(folder), read, group), group)
    return _digest({name: sha256 for share in shares for name, sha256 in share.items()})


def check_base(record: AdapterRecord, folder: Path, checkpoint: Path, group: Group = None) -> None:
    """Whether a folder holds the base that a checkpoint's adapters were trained beside; all ranks call it.

    Args:
        record: of the checkpoint.
        folder: the supposed base.
        checkpoint: for the message.
        group: of all ranks.

    Raises:
        CheckpointError: it holds something else.
    """
    found = base_sha256(folder, group)
    if found != record.base_sha256:
        raise CheckpointError(
            str(folder),
            required=f"the base of {checkpoint}, as it was when its adapters were trained "
            f"(sha256 {record.base_sha256[:12]}…)",
            given=f"other weights or another config.json (sha256 {found[:12]}…)",
            fix="put back the folder that it was trained from, or give this run another name to train "
            "adapters beside these weights",
        )


def check_present(record: AdapterRecord, checkpoint: Path) -> None:
    """Whether there still is a checkpoint where the base was.

    Raises:
        CheckpointError: there is none.
    """
    if any((record.base_path / name).is_file() for name in (MANIFEST, _CONFIG)):
        return
    raise CheckpointError(
        str(checkpoint),
        required=f"its base, the checkpoint {record.base_path}: these are adapters alone",
        given="no checkpoint there",
        fix=f"put it back, or make a link to where it is now: ln -s NEW_PLACE {record.base_path}",
    )


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
