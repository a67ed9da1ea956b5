"""Paths that a command line names, looked at together before anything else is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nemo_pi.bounded.places import exists
from nemo_pi.errors import ConfigError, nearest_path


def check_paths(given: Sequence[tuple[str, str | Path | None]]) -> None:
    """Refuse all paths that do not exist in one message, each with the nearest that does.

    Args:
        given: key or flag, and the path it names; None is left out. An empty one names nothing.

    Raises:
        ConfigError: names the keys and the paths.
    """
    for key, path in given:
        # As text: Path("") is the folder that the command was started in.
        if path is not None and str(path) in ("", "."):
            raise ConfigError(key, required="a path", given=repr(str(path)), fix="name the file or folder")
    named = [(key, Path(path).expanduser()) for key, path in given if path is not None]
    missing = [(key, path) for key, path in named if not exists(path)]
    if not missing:
        return
    near = [(path, nearest_path(path) if len(str(path)) < 300 else None) for _, path in missing]
    hints = [f"did you mean {found} (for {path})?" for path, found in near if found]
    raise ConfigError(
        ", ".join(dict.fromkeys(key for key, _ in missing)),
        required="files and folders that exist here (nothing is downloaded)",
        given="no such path: " + ", ".join(str(path)[:200] for _, path in missing),
        fix=" ".join(hints) or "correct the path" + ("s" if len(missing) > 1 else ""),
    )
