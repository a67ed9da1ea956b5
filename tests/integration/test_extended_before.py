"""Models that were extended before and are extended again: refused with the line to write, and by it exact.

Whoever extends again counts from the original window. transformers, told so in a config.json written by hand,
turns positions as the export does.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from nemo_pi.cli.ends import USER_ERROR
from tests.integration.world import World

WINDOW = 64


@dataclass(frozen=True)
class Case:
    """One model extended twice."""

    model: str
    """Of the world; its window is 64 tokens."""
    config: dict[str, Any]
    """What its config.json says after the first time."""
    asked: tuple[str, ...]
    """What the second time is asked for."""
    rope: dict[str, Any]
    """What transformers must be told for the same positions."""
    window: int
    """The target of the second time."""


CASES = {
    "linear 8 to 16": Case(
        "untied",
        {"max_position_embeddings": 512, "rope_scaling": {"type": "linear", "factor": 8.0}},
        ("model.max_position_embeddings=1024",),
        {"rope_type": "linear", "factor": 16.0},
        1024,
    ),
    # The paper's second stage; config.json in the words of the released models.
    "YaRN 16 to 32": Case(
        "tied",
        {
            "max_position_embeddings": 1024,
            "rope_scaling": {
                "type": "yarn",
                "factor": 16.0,
                "original_max_position_embeddings": WINDOW,
                "finetuned": True,
            },
        },
        ("model.max_position_embeddings=2048", "model.pos_scaling_factor=32.0"),
        {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": WINDOW},
        2048,
    ),
    "Llama 3.1's to YaRN": Case(
        "untied",
        {
            "max_position_embeddings": 1024,
            "rope_theta": 500000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": WINDOW,
            },
        },
        ("model.max_position_embeddings=2048", "model.pos_scaling_type=yarn"),
        {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": WINDOW},
        2048,
    ),
    # As its model cards say: the window stays as it was beside the factor.
    "Qwen's YaRN to 8": Case(
        "qwen2",
        {
            "max_position_embeddings": WINDOW,
            "rope_theta": 1000000.0,
            "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": WINDOW},
        },
        ("model.max_position_embeddings=512",),
        {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": WINDOW},
        512,
    ),
}
SHORT = (
    "model.pos_scaling_factor=null",
    "model.encoder_seq_length=64",
    "trainer.max_steps=3",
    "trainer.limit_val_batches=0",
)


def extended_once(source: Path, folder: Path, case: Case) -> Path:
    """The model with the config.json of a first extension."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("rope_parameters", None)
    (folder / "config.json").write_text(json.dumps({**config, **case.config}))
    return folder


def lines_to_write(message: str) -> list[str]:
    """The overrides of the way that replaces the scaling, out of the message."""
    (way,) = re.findall(r"to replace its scaling \([^)]*\): (.*?) \(in the YAML", message)
    return way.split()


@pytest.mark.parametrize("name", CASES)
def test_refused_with_the_line_that_extends_it_again(name: str, world: World, tmp_path: Path) -> None:
    case = CASES[name]
    before = extended_once(world.models[case.model], tmp_path / "before", case)
    asked = [f"restore_from_path={before}", *SHORT, *case.asked]
    refused = world.run(f"again-{name}-refused", *asked, model=case.model)
    assert refused.finished.statuses == (USER_ERROR,)
    assert "is already scaled" in refused.finished.err and not refused.exported.exists()

    again = world.run(f"again-{name}", *asked, *lines_to_write(refused.finished.err), model=case.model)
    again.finished.check()
    record = json.loads((again.exported / "config.json").read_text())["nemo_pi_extension"]
    assert (record["original_window"], record["target_window"]) == (WINDOW, case.window)

    theirs = AutoConfig.from_pretrained(again.exported)
    stated = json.loads((before / "config.json").read_text())
    stated.pop("rope_scaling")
    base = stated.get("rope_theta", 10000.0)
    stated |= {"max_position_embeddings": case.window, "rope_parameters": {"rope_theta": base, **case.rope}}
    by_hand = AutoConfig.for_model(**stated)
    ours, wanted = LlamaRotaryEmbedding(theirs), LlamaRotaryEmbedding(by_hand)
    assert torch.equal(ours.inv_freq, wanted.inv_freq)
    assert ours.attention_scaling == wanted.attention_scaling

    # The weights that were trained, at the end of the new window, under either config.
    tokens = torch.randint(0, 2048, (1, 24), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(case.window - 24, case.window)[None]
    mask = torch.ones_like(tokens)
    with torch.no_grad():
        logits = [
            AutoModelForCausalLM.from_pretrained(again.exported, config=config)
            .eval()(tokens, attention_mask=mask, position_ids=positions)
            .logits
            for config in (theirs, by_hand)
        ]
    torch.testing.assert_close(*logits, rtol=0, atol=0)
