from __future__ import annotations

import ast
import inspect
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from nemo_pi.config import schema, sections
from nemo_pi.config.merge import from_mapping
from nemo_pi.config.schema import ModelConfig, RunConfig

CONF = Path(__file__).resolve().parents[3] / "conf"


@pytest.mark.parametrize("module", [schema, sections])
def test_every_field_has_a_docstring_below_it(module: Any) -> None:
    classes = [node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.ClassDef)]
    assert classes
    for node in classes:
        for field, following in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                text = getattr(getattr(following, "value", None), "value", None)
                assert isinstance(text, str), f"{node.name}.{ast.unparse(field.target)} has no docstring"


def test_base_yaml_lists_every_key_of_model_with_its_default() -> None:
    values = yaml.safe_load((CONF / "model" / "base.yaml").read_text())
    defaults = asdict(ModelConfig())
    assert asdict(from_mapping(ModelConfig, values)) == defaults
    assert _keys(values) == _keys(defaults)


def test_the_two_keys_come_first() -> None:
    names = [field.name for field in fields(ModelConfig)]
    assert names[:2] == ["max_position_embeddings", "pos_scaling_factor"]


def test_defaults_are_of_their_own_types() -> None:
    config = RunConfig()
    assert from_mapping(RunConfig, asdict(config)) == config


def test_sections_are_dataclasses() -> None:
    hints = get_type_hints(ModelConfig)
    assert {name for name, hint in hints.items() if is_dataclass(hint)} == {
        "tokenizer",
        "data",
        "optim",
        "evaluation",
        "export",
    }


def _keys(values: Any, path: str = "") -> set[str]:
    if not isinstance(values, dict):
        return {path}
    return {name for key, value in values.items() for name in _keys(value, f"{path}.{key}")}
