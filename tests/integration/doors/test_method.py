"""CONTRIBUTING's recipe "Add a method" and the docs' own method, followed to the letter in a package."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from nemo_pi.checkpoint.hf.config import extension_from_config
from nemo_pi.checkpoint.hf.config_write import build_config
from nemo_pi.checkpoint.summary import CheckpointSummary, read_summary
from nemo_pi.config.load import resolve
from nemo_pi.config.plan import render_plan
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.errors import ConfigError
from nemo_pi.families.registry import family_of
from nemo_pi.rope.methods import registry
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import inverse_frequencies, rotary_cos_sin
from tests.plug_ins import install

ROOT = Path(__file__).resolve().parents[3]


def code_in(page: str, heading: str, language: str = "python") -> str:
    """The first fenced block after a heading of a page."""
    text = (ROOT / page).read_text(encoding="utf-8").partition(heading)[2]
    found = re.search(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found is not None, f"{page} has no {language} block under {heading}"
    return found[1]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The recipe's method, registered by a package; its name."""
    return add(tmp_path, monkeypatch, code_in("CONTRIBUTING.md", "### Add a method"))


@pytest.fixture
def in_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The method that docs/methods.md shows, registered by the entry point that it shows; its name."""
    entry = code_in("docs/methods.md", "## Your own method", "toml")
    assert entry.splitlines() == [
        f'[project.entry-points."{registry.PLUG_INS.group}"]',
        'softened = "acme_rope:Softened"',
    ]
    return add(tmp_path, monkeypatch, code_in("docs/methods.md", "## Your own method"))


def add(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> str:
    install(folder, monkeypatch, "acme_rope", source, registry.PLUG_INS, {"softened": "Softened"})
    return "softened"


def planned(method: str, *overrides: str, summary: CheckpointSummary | None = None) -> ResolvedRun:
    """A dry run of examples/extend_context.py's own configuration, from the bundled model."""
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose(
            "extend_context", overrides=["dry_run=true", f"model.pos_scaling_type={method}", *overrides]
        )
    return resolve(cfg, world_size=1, summary=summary or read_summary(ROOT / "demo" / "model"))


def config_of(run: ResolvedRun) -> dict[str, Any]:
    """config.json of the run's export."""
    family_of(run.shape).check_exportable(run.extension)
    return json.loads(json.dumps(build_config(run.shape, run.extension, None, "float32")))


def test_the_recipe_extends_plans_computes_and_exports(recipe: str) -> None:
    run = planned(recipe, "model.pos_scaling_extra_args={gain: 2}")
    assert (run.extension.method, run.extension.factor, run.extension.target_window) == (recipe, 8.0, 4096)
    plan = render_plan(run)
    assert "softened (interpolation by more than the factor)" in plan and "gain" in plan
    inverse_F = inverse_frequencies(run.extension)
    config = config_of(run)
    theirs_F, factor = ROPE_INIT_FUNCTIONS["linear"](LlamaConfig(**config), None)
    assert torch.equal(inverse_F, theirs_F) and factor == 1.0
    cos_SF, _ = rotary_cos_sin(run.extension, torch.tensor([0, 4095]))
    torch.testing.assert_close(cos_SF[1], (4095 * theirs_F.double()).cos().float(), rtol=0, atol=1e-6)
    assert extension_from_config(config, run.shape) == run.extension
    del config["nemo_pi_extension"]
    assert extension_from_config(config, run.shape).method == "linear", "as the recipe says"


def test_its_checkpoint_is_kept_and_rescaled(recipe: str) -> None:
    held = planned(recipe, "model.pos_scaling_extra_args={gain: 2}")
    assert held.checkpoint is not None
    values = json.loads(json.dumps(held.extension.to_dict()))
    summary = CheckpointSummary(**{**vars(held.checkpoint), "extension": ContextExtension.from_dict(values)})
    kept = planned("null", summary=summary)
    assert kept.extension == held.extension
    windows = ["model.max_position_embeddings=8192", "model.pos_scaling_factor=null"]
    longer = planned("null", *windows, "model.allow_rescaling=true", summary=summary)
    assert (longer.extension.method, longer.extension.factor) == (recipe, 16.0)
    assert longer.extension.extra_args == {"gain": 2.0}


def test_its_arguments_are_checked(recipe: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.pos_scaling_extra_args\.gain: .*above 0; given -1"):
        planned(recipe, "model.pos_scaling_extra_args={gain: -1}")


def test_the_docs_method_trains_but_is_not_exported(in_the_docs: str) -> None:
    run = planned(in_the_docs, "model.pos_scaling_extra_args={gain: 1.5}")
    plain_F = inverse_frequencies(ContextExtension.unscaled(512, run.shape.head_dim))
    assert torch.equal(inverse_frequencies(run.extension), plain_F / 12)
    with pytest.raises(ConfigError, match=r"model\.pos_scaling_type: .*transformers can compute"):
        config_of(run)
