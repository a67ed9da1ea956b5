"""config.json compared with itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_pi.families.registry import family_named
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.verification.record import config_findings

SIZES = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
METHODS: dict[str, dict[str, Any]] = {
    "linear": {},
    "yarn": {},
    "ntk": {},
    "dynamic": {},
    "llama3": {},
    "abf": {"base": 8e6},
}


def written(
    folder: Path, method: str, change: Callable[[dict[str, Any]], None] = lambda config: None
) -> Path:
    """config.json as an export writes it, then changed."""
    spec = ContextExtension.build(
        original_window=64, target_window=512, method=method, head_dim=16, extra_args=METHODS[method]
    )
    config = {**SIZES, **family_named("llama").extension_entries(spec)}
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_exports_agree_with_themselves(method: str, tmp_path: Path) -> None:
    findings = config_findings(written(tmp_path, method))
    assert {finding.verdict for finding in findings} == {"ok"}


@pytest.mark.parametrize("method", METHODS)
def test_another_base_is_found_and_named(method: str, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        for entries in (config, config.get("rope_parameters", {})):
            entries["rope_theta"] = 12345.0

    findings = config_findings(written(tmp_path, method, change))
    failed = [finding for finding in findings if finding.failed]
    assert failed and "12345.0 in config.json" in failed[0].where


def test_spellings_that_disagree_are_found(tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["rope_parameters"] = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0}
        config["rope_scaling"] = {"rope_type": "linear", "factor": 4.0}
        del config["nemo_pi_extension"]

    (finding,) = config_findings(written(tmp_path, "linear", change))
    assert finding.failed and finding.against == "their older spelling"


def test_a_tokenizer_that_ends_before_the_window_is_noted(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64}))
    notes = [finding for finding in config_findings(written(tmp_path, "yarn")) if finding.verdict == "note"]
    assert len(notes) == 1 and "64 tokens" in notes[0].where


@pytest.mark.parametrize("factor", [1.0, 1.2079441541679836])
def test_an_attention_factor_that_is_not_the_formula_s_is_noted(factor: float, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        for key in ("rope_scaling", "rope_parameters"):
            if key in config:
                config[key]["attention_factor"] = factor
        del config["nemo_pi_extension"]

    findings = config_findings(written(tmp_path, "yarn", change))
    notes = [finding.where for finding in findings if finding.verdict == "note"]
    # 0.1·ln 8 + 1.
    assert notes == ([] if factor > 1 else ["1 in config.json, 1.20794 by the formula of yarn"])
