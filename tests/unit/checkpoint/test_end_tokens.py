"""Which tokens end a text: as transformers' generate decides it, for checkpoints of either kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from nemo_pi.checkpoint.end_tokens import stated_end_ids
from nemo_pi.checkpoint.hf.source import HuggingFaceSource
from nemo_pi.checkpoint.manifest import MANIFEST, build_manifest
from nemo_pi.errors import CheckpointError
from tests.unit.checkpoint.models import save_transformers_model

CASES: list[tuple[dict[str, Any] | None, Any, tuple[int, ...]]] = [
    (None, 5, (5,)),
    (None, [5, 9], (5, 9)),
    (None, None, ()),
    ({"eos_token_id": [7, 5, 7]}, 5, (7, 5)),
    ({"eos_token_id": 7}, [5, 9], (7,)),
    ({"eos_token_id": 0}, 5, (0,)),
    ({"top_p": 0.9}, [5, 9], (5, 9)),
    ({"eos_token_id": None}, 5, (5,)),
    ({"eos_token_id": []}, 5, (5,)),
    ({"eos_token_id": -1}, -1, ()),
]


def stating(folder: Path, generation: dict[str, Any] | None, eos: Any) -> Path:
    save_transformers_model(folder, num_hidden_layers=1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": eos}))
    (folder / "generation_config.json").unlink()
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


@pytest.mark.parametrize(("generation", "eos", "expected"), CASES, ids=str)
def test_generation_config_decides_before_config(
    generation: dict[str, Any] | None, eos: Any, expected: tuple[int, ...], tmp_path: Path
) -> None:
    folder = stating(tmp_path / "model", generation, eos)
    assert stated_end_ids(folder) == expected
    meta = {"shape": {}, "extension": {}, "global_step": 0, "consumed_samples": 0}
    (tmp_path / "distributed").mkdir()
    manifest = build_manifest({**meta, "source_config": HuggingFaceSource.read(folder).to_dict()}, {})
    (tmp_path / "distributed" / MANIFEST).write_text(json.dumps(manifest))
    assert stated_end_ids(tmp_path / "distributed") == expected


@pytest.mark.parametrize(("generation", "eos", "expected"), CASES[:6], ids=str)
def test_it_is_what_transformers_stops_at(
    generation: dict[str, Any] | None, eos: Any, expected: tuple[int, ...], tmp_path: Path
) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(stating(tmp_path / "model", generation, eos))
    stops = theirs.generation_config.eos_token_id
    assert set(expected) == set(stops if isinstance(stops, list) else () if stops is None else (stops,))


def test_a_checkpoint_that_does_not_say(tmp_path: Path) -> None:
    assert stated_end_ids(tmp_path) == ()
    manifest = build_manifest({"shape": {}, "extension": {}, "global_step": 0, "consumed_samples": 0}, {})
    for source in (None, [], {"config": None}, {"generation_config": 3, "config": {}}):
        (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "source_config": source}))
        assert stated_end_ids(tmp_path) == ()


@pytest.mark.parametrize("value", ["2", [2, "3"], True, [[2]], {"id": 2}, 2.0])
def test_something_else_is_refused(value: Any, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(CheckpointError, match=r"generation_config\.json: eos_token_id: required a token id"):
        stated_end_ids(tmp_path)
