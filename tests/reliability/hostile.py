"""Files that a stranger might send: what they hold is written to run as soon as anyone lets it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CODE = "from pathlib import Path\nPath({marker!r}).touch()\n"
"""Python whose only effect is to leave a file behind."""


@dataclass(frozen=True)
class NemoFile:
    """A .nemo file's two members."""

    config: str
    """model_config.yaml."""
    weights: bytes
    """model_weights.ckpt."""

    def write(self, path: Path, extra: str = "", before: str = "", mode: str = "w:") -> Path:
        """An archive with `extra` YAML after the configuration, and `before` before it."""
        members = [("model_config.yaml", (before + self.config + extra).encode())]
        return write_tar(path, [*members, ("model_weights.ckpt", self.weights)], mode)


def write_tar(path: Path, members: Sequence[tuple[str | tarfile.TarInfo, bytes]], mode: str = "w:") -> Path:
    """A tar archive of (name or header, content)."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for member, content in members:
            header = tarfile.TarInfo(member) if isinstance(member, str) else member
            if header.isreg():
                header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


def remote_code_tokenizer(folder: Path, marker: Path) -> Path:
    """A Hugging Face tokenizer folder whose own Python leaves `marker` when it is imported."""
    folder.mkdir(parents=True)
    (folder / "tokenization_evil.py").write_text(
        CODE.format(marker=str(marker))
        + "from transformers import PreTrainedTokenizerFast as EvilTokenizer\n"
    )
    entries = {"AutoTokenizer": ["tokenization_evil.EvilTokenizer", "tokenization_evil.EvilTokenizer"]}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "EvilTokenizer", "auto_map": entries})
    write_json(
        folder / "config.json", {"model_type": "evil", "auto_map": {"AutoConfig": "tokenization_evil.X"}}
    )
    return folder


def write_json(path: Path, values: Any) -> Path:
    """`values` as a JSON file."""
    path.write_text(json.dumps(values))
    return path


class Runs:
    """Unpickled, it leaves a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return exec, (CODE.format(marker=str(self.marker)),)
