"""Families by name; and nobody else asks for one."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_pi.errors import CheckpointError
from nemo_pi.families.registry import PLUG_INS, families, family_named, family_of, family_of_config, names
from tests.plug_ins import install
from tests.unit.families.test_shape import SHAPE

ROOT = Path(__file__).resolve().parents[3]


def test_every_family_is_known_by_its_name() -> None:
    assert names() == tuple(family.name for family in families())
    for family in families():
        assert family_of(replace(SHAPE, family=family.name)) is family
        assert family_of_config({"model_type": family.name}) is family


def test_an_unknown_family_lists_the_known_ones() -> None:
    with pytest.raises(CheckpointError) as caught:
        family_of(replace(SHAPE, family="somebody's"))
    assert all(name in caught.value.required for name in names())
    assert all(family.architecture in caught.value.fix for family in families())


def test_mixtures_of_experts_are_named_as_such() -> None:
    with pytest.raises(CheckpointError, match="mixtures of experts are not supported"):
        family_of_config({"model_type": "qwen3_moe", "num_experts": 128})


def test_a_class_that_cannot_be_made_is_its_package_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from nemo_pi.families.base import Family\nclass Acme(Family):\n    name = 'acme'\n"
    install(tmp_path, monkeypatch, "acme", source, PLUG_INS, {"acme": "Acme"})
    with pytest.raises(CheckpointError, match=r"Acme to be made without .*by acme 1\.2\); given TypeError"):
        family_named("acme")


def test_nothing_outside_asks_for_a_name() -> None:
    """No string of the library or of an entry point is a family's name or class, docstrings aside."""
    known = set(names()) | {family.architecture for family in families()}
    asked = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for folder in ("nemo_pi", "examples")
        for path in (ROOT / folder).rglob("*.py")
        if "families" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in known
    ]
    assert asked == []
    source = (ROOT / "nemo_pi" / "families" / "registry.py").read_text(encoding="utf-8")
    assert not re.search(r"name == |name != ", source), "the registry looks names up, it compares none"


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_no_package_takes_a_name_of_ours(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = family_named(name)
    source = (
        f"from nemo_pi.families.{name} import {name.title()} as Ours\nclass Theirs(Ours):\n    layers = 0\n"
    )
    install(tmp_path, monkeypatch, "acme", source, PLUG_INS, {name: "Theirs"})
    assert family_named(name) is ours and family_of_config({"model_type": name}) is ours
    assert names().count(name) == 1 and name not in PLUG_INS.names()
    with pytest.raises(CheckpointError, match=rf"given '{name}' from acme 1\.2, which nemo_pi has already"):
        PLUG_INS.check_claims(name)


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "olmo3"])
def test_attention_that_looks_ahead_is_refused(name: str) -> None:
    """transformers lifts the causal mask of every class by this entry."""
    with pytest.raises(CheckpointError, match="is_causal: required true, or absent; given False"):
        family_of_config({"model_type": name, "is_causal": False})
    assert family_of_config({"model_type": name, "is_causal": True}).name == name
