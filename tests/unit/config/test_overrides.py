"""Overrides as people write them, through Hydra itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from nemo_pi.config.load import merge
from nemo_pi.config.overrides import as_hydra, refusal
from nemo_pi.config.schema import RunConfig
from nemo_pi.errors import ConfigError
from nemo_pi.rope.methods.registry import PLUG_INS
from tests.plug_ins import install

CONF = Path(__file__).parents[3] / "conf"


def merged(*arguments: str) -> RunConfig:
    """The command line's configuration, as the entry point makes it."""
    with initialize_config_dir(str(CONF), version_base=None):
        overrides = [as_hydra(word) for word in arguments]
        try:
            return merge(compose("extend_context", overrides=overrides))
        except HydraException as error:
            raise refusal(error, overrides) from None


@pytest.mark.parametrize("sign", ["", "+", "++"])
@pytest.mark.parametrize(
    ("key", "value"), [("max_position_embeddings", 8192), ("seq_len_interpolation_factor", 16.0)]
)
def test_every_spelling_sets_a_key(sign: str, key: str, value: float) -> None:
    assert getattr(merged(f"{sign}model.{key}={value}").model, key) == value


def test_keys_that_the_yaml_lacks_need_no_plus() -> None:
    config = merged(
        "trainer.max_time=00:01:00:00", "model.pos_scaling_extra_args.beta_fast=16", "+exp_manager.version=v1"
    )
    assert config.trainer["max_time"] == "00:01:00:00"
    assert config.model.pos_scaling_extra_args == {"beta_fast": 16}
    assert config.exp_manager["version"] == "v1"


def test_a_stage_is_named_by_its_number() -> None:
    stages = "stages=[{max_steps: 5, optim.lr: 1e-3}, {max_steps: 6}]"
    for word in ("stages[1].optim.lr=3e-4", "stages.1.optim.lr=3e-4"):
        assert merged(stages, word).stages == [
            {"max_steps": 5, "optim.lr": 1e-3},
            {"max_steps": 6, "optim": {"lr": 3e-4}},
        ]
    with pytest.raises(ConfigError, match=r"stages\[2\]: required a stage that the YAML has"):
        merged(stages, "stages[2].optim.lr=3e-4")


def test_groups_flags_and_deletions_are_left_alone() -> None:
    for word in (
        "model=llama-7b",
        "+pose=paper",
        "pose=paper",
        "--cfg",
        "job",
        "~model.seed",
        "~pose=x",
        "hydra.x=1",
    ):
        assert as_hydra(word).lstrip("+") == word.lstrip("+")
    assert merged("model=llama-7b", "dry_run=true").model.num_layers == 32


def test_the_home_folder() -> None:
    home = str(Path.home())
    config = merged("restore_from_path=~/base", "model.data.data_prefix=[0.5,~/a,0.5,~/b]", "name='a~/b'")
    assert config.restore_from_path == f"{home}/base"
    assert config.model.data.data_prefix == [0.5, f"{home}/a", 0.5, f"{home}/b"]
    assert config.name == "a~/b"


@pytest.mark.parametrize(
    ("word", "field", "fix"),
    [
        ("model.max_position_embedings=9", "model.max_position_embedings", "model.max_position_embeddings?"),
        ("dryrun=true", "dryrun", "dry_run"),
        ("model=llama-8b", "model", "llama-3-8b"),
        ("+pose=papr", "pose", "paper"),
        ("model.seed=[1,", "model.seed=[1,", "quote"),
        ("model.pos_scaling_factor=4,", "model.pos_scaling_factor=4,", "quote"),
        ("model.pos_scaling_factor=4,8", "model.pos_scaling_factor", "=[4,8]"),
        ("~model.nothing", "model.nothing", "leave it out"),
        ("model=null", "model", "model=NAME"),
        ("recipe=null", "recipe", "recipe=NAME"),
        ("recipee=yarn_64k", "recipee", "recipe"),
        ("+pose=[null]", "pose", "pose=NAME"),
        ("~pose=[]", "pose", "~pose=NAME"),
        ("~model=4", "model", "~model=NAME"),
        ("exp_manager=null", "exp_manager", "default"),
    ],
)
def test_mistakes_are_named(word: str, field: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        merged(word, "restore_from_path=/x")
    assert caught.value.field == field
    assert fix in caught.value.fix


@pytest.mark.parametrize("word", ["rope=bump", "rope=bmp"])
def test_a_package_s_method_has_no_yaml(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "acme", "raise RuntimeError('imported')", PLUG_INS, {"bump": "Bump"})
    with pytest.raises(ConfigError, match=r"To fix: model\.pos_scaling_type=bump selects it"):
        merged(word, "restore_from_path=/x")
    with pytest.raises(ConfigError, match="did you mean yarn"):
        merged("rope=yarm", "restore_from_path=/x")


def test_several_values_are_for_several_runs() -> None:
    assert as_hydra("model.seed=1,2", sweeps=True) == "++model.seed=1,2"
    with pytest.raises(ConfigError, match="--multirun"):
        as_hydra("model.seed=1,2")
