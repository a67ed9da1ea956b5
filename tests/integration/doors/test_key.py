"""The recipe "Add a key" of CONTRIBUTING.md, followed in a copy of the sources: two files change, no more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_pi.errors import ConfigError
from tests.unit.config.builders import run_of

ROOT = Path(__file__).resolve().parents[3]
SCHEMA = Path("nemo_pi/config/schema.py")
BASE_YAML = Path("conf/model/base.yaml")

# An option of Megatron's TransformerConfig that no key of `model` reaches yet; Megatron's default is true.
OPTION = "attention_softmax_in_fp32"
FIELD = f'''    {OPTION}: bool | None = passed(None, transformer="{OPTION}")
    """Compute the softmax of attention in fp32. null: as Megatron does."""
'''
ABOVE = "    # --- loss ---\n"

RUN = f"""
from hydra import compose, initialize_config_dir
from nemo_pi.config.load import resolve
from nemo_pi.model.build import transformer_config

sizes = "num_layers=2 hidden_size=64 ffn_hidden_size=96 num_attention_heads=2 vocab_size=128"
window = "max_position_embeddings=64"
given = ["model=base", "dry_run=true", *(f"model.{{key}}" for key in [*sizes.split(), window])]
for value in ("null", "true", "false"):
    with initialize_config_dir("{{conf}}", version_base=None):
        cfg = compose("extend_context", [*given, f"model.{OPTION}={{value}}"])
    settings = resolve(cfg, world_size=1, summary=None).engine
    config = transformer_config(settings.shape, settings.layout, settings.build)
    print(value, config.{OPTION})
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources and the YAMLs, with the recipe carried out."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("nemo_pi", "conf", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    schema = folder / SCHEMA
    text = schema.read_text(encoding="utf-8")
    assert text.count(ABOVE) == 1
    schema.write_text(text.replace(ABOVE, FIELD + "\n" + ABOVE), encoding="utf-8")
    python(folder, "-m", "tools.base_yaml")
    return folder


def python(folder: Path, *arguments: str) -> str:
    """What the copy prints."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    finished = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_two_files_change(copy: Path) -> None:
    changed = [
        path.relative_to(copy)
        for name in ("nemo_pi", "conf", "tools")
        for path in sorted((copy / name).rglob("*"))
        if path.suffix in (".py", ".yaml")
        and path.read_bytes() != (ROOT / path.relative_to(copy)).read_bytes()
    ]
    assert changed == [SCHEMA, BASE_YAML]


def test_the_yaml_explains_it(copy: Path) -> None:
    lines = (copy / BASE_YAML).read_text(encoding="utf-8").splitlines()
    at = lines.index(f"{OPTION}: null")
    explained = "# Compute the softmax of attention in fp32. null: as Megatron does. (bool, default: null)"
    assert lines[at - 1] == explained


def test_its_values_reach_megatron(copy: Path) -> None:
    printed = python(copy, "-c", RUN.replace("{conf}", str(copy / "conf")))
    assert printed.split("\n")[-4:-1] == ["null True", "true True", "false False"]


def test_the_recipe_s_other_key_is_as_it_says() -> None:
    """The field's two lines stand in the schema, and the size arrives where the recipe says."""
    recipe = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("### Add a key")[2]
    declared = recipe.split("```python\n")[2].partition("```")[0].replace("\n   ", "\n    ").rstrip()
    assert f"    {declared.lstrip()}\n" in (ROOT / SCHEMA).read_text(encoding="utf-8")
    assert run_of({"loss_chunk_size": 77}).engine.build.loss_chunk_tokens == 77
    with pytest.raises(ConfigError, match=r"model\.loss_chunk_size: required at least 1 token"):
        run_of({"loss_chunk_size": 0})
