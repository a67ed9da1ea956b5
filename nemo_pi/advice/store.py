"""What has been measured, in a file that is whole after every candidate: a second start goes on from it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nemo_pi.advice.heads import LargestPulls
from nemo_pi.advice.rounds import Round, Rounds
from nemo_pi.advice.speed import Speed
from nemo_pi.bounded.files import read_bytes
from nemo_pi.bounded.json_text import MOST_JSON_BYTES, parse_json
from nemo_pi.errors import NemoPiError
from nemo_pi.evaluation.results import ModelResults

FORMAT = "nemo_pi advice 1"


@dataclass
class Store:
    """Everything that a report is made of but the checkpoint's own facts."""

    path: Path
    """The file."""
    about: Mapping[str, Any]
    """What was asked of which checkpoint and text; results of anything else are not taken up. JSON types."""
    minutes: float = 0.0
    """That were allowed."""
    speed: Speed | None = None
    """As it was measured."""
    rounds: Rounds = ()
    """As they were planned."""
    pulls: LargestPulls | None = None
    """The largest |h_j|."""
    results: dict[str, dict[str, ModelResults]] = field(default_factory=dict)
    """Label of a candidate → key of a round → what it measured."""

    @classmethod
    def open(cls, path: Path, about: Mapping[str, Any]) -> Store:
        """What an earlier start left in the file, if it was asked the same; else an empty store."""
        store = cls(path, about)
        try:
            content = parse_json(read_bytes(path, MOST_JSON_BYTES))
            if content["format"] != FORMAT or content["about"] != json.loads(json.dumps(about)):
                return store
            store._read(content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, NemoPiError):
            return cls(path, about)  # none yet, or not ours: it is written anew
        return store

    def result(self, label: str, each: Round) -> ModelResults | None:
        """Of a candidate in a round of these sizes, whichever plan it belonged to."""
        return self.results.get(label, {}).get(key_of(each))

    def keep(self, label: str, each: Round, found: ModelResults) -> None:
        """Adds a result and writes the file."""
        self.results.setdefault(label, {})[key_of(each)] = found
        self.write()

    def write(self) -> None:
        """Whole or not at all."""
        content = {
            "format": FORMAT,
            "about": self.about,
            "minutes": self.minutes,
            "speed": self.speed and asdict(self.speed),
            "rounds": [asdict(each) for each in self.rounds],
            "largest_h": self.pulls and asdict(self.pulls),
            "results": {
                label: {key: found.to_json() for key, found in by_round.items()}
                for label, by_round in self.results.items()
            },
        }
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            draft.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            draft.replace(self.path)
        finally:
            draft.unlink(missing_ok=True)

    def _read(self, content: Mapping[str, Any]) -> None:
        self.minutes = float(content["minutes"])
        self.speed = Speed(**content["speed"]) if content["speed"] else None
        self.rounds = tuple(Round(**values) for values in content["rounds"])
        pulls = content["largest_h"]
        self.pulls = LargestPulls(**{**pulls, "by_pair": tuple(pulls["by_pair"])}) if pulls else None
        self.results = {
            label: {key: ModelResults.from_json(found) for key, found in by_round.items()}
            for label, by_round in content["results"].items()
        }


def key_of(each: Round) -> str:
    """The sizes of what a round measures, whatever the number of candidates."""
    lengths = "all lengths" if each.all_lengths else "two lengths"
    return f"{each.windows} windows, {lengths}, {each.trials} trials, {each.documents} documents"
