"""Long work in stages: each leaves files behind, so that an interrupted run goes on where it was.

A stage is done where its files are. The plan with its times is said before the first one starts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_pi.errors import ConfigError

LONGEST_MINUTES = 40
"""Of a stage, in the size that is shipped: what an interruption costs at most. The plan marks longer ones."""


@dataclass(frozen=True)
class Stage:
    """One piece of the work."""

    name: str
    """What the plan calls it."""
    seconds: float
    """How long it should take."""
    made: Path
    """What it leaves behind; there, it is done. It must appear whole or not at all."""
    run: Callable[[], None]
    """Does it."""

    @property
    def done(self) -> bool:
        """Whether an earlier run has finished it."""
        return self.made.exists()


def describe(stages: Sequence[Stage]) -> str:
    """Say what will be done and how long it should take."""
    width = max(len(stage.name) for stage in stages)
    lines = [f"  {stage.name:<{width}}  {_time(stage)}" for stage in stages]
    left = sum(stage.seconds for stage in stages if not stage.done)
    return "\n".join(["Stages:", *lines, f"  {'to do':<{width}}  {_minutes(left)}"])


def run_stages(
    stages: Sequence[Stage], say: Callable[[str], None] = print, *, announced: bool = False
) -> None:
    """Run what is not done yet, in order; the plan comes first, unless it has been said.

    Raises:
        RuntimeError: a stage that ends without its files.
    """
    if not announced:
        say(describe(stages))
    for stage in stages:
        if stage.done:
            continue
        say(f"{time.strftime('%H:%M')} {stage.name}, about {_minutes(stage.seconds)}")
        started = time.perf_counter()
        stage.run()
        if not stage.done:  # a run that was asked to stop has saved and ended without an error
            raise RuntimeError(f"{stage.name} ended without {stage.made}; start again to go on")
        say(f"      took {_minutes(time.perf_counter() - started)}")


def keep_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write down what a folder's stages were made with, or compare: stages of two sizes are no one result.

    Raises:
        ConfigError: the folder holds stages of other settings.
    """
    compare_settings(folder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict(settings), indent=2) + "\n"
    (folder / "settings.json").write_text(text, encoding="utf-8")


def compare_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder that was begun otherwise; nothing is written.

    Raises:
        ConfigError: the folder holds stages of other settings.
    """
    file, own = folder / "settings.json", json.loads(json.dumps(settings))
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        if before != own:
            changed = [name for name in own if own[name] != before.get(name)]
            raise ConfigError(
                "results",
                required=f"a folder for these settings: {', '.join(f'{n} {own[n]}' for n in changed)}",
                given=f"{folder}, begun with {', '.join(f'{n} {before.get(n)}' for n in changed)}",
                fix="give --results another folder",
            )


def _time(stage: Stage) -> str:
    if stage.done:
        return "done"
    longer = stage.seconds > 60 * LONGEST_MINUTES
    return _minutes(stage.seconds) + longer * f", in one piece of more than {LONGEST_MINUTES} min"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"
