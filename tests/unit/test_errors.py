"""Errors called by the names that their reader knows."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from nemo_pi.errors import CheckpointError, ConfigError, Together, nearest, nearest_path

NAMES = {"factor": "model.pos_scaling_factor", "extra_args": "model.pos_scaling_extra_args"}


def test_fields_get_the_reader_s_names() -> None:
    error = ConfigError("factor", required="1", given="`factor` 2", fix="write `factor`: 1, not `.factor` 2")
    there = error.respelled(NAMES)
    assert type(there) is ConfigError
    assert there.field == "model.pos_scaling_factor"
    assert there.given == "model.pos_scaling_factor 2"
    assert there.fix == "write model.pos_scaling_factor: 1, not pos_scaling_factor 2"


def test_what_follows_a_field_stays() -> None:
    error = CheckpointError("extra_args.lists[3]", required="a", given=3, fix="b")
    there = error.respelled(NAMES)
    assert (there.field, there.given) == ("model.pos_scaling_extra_args.lists[3]", 3)
    assert error.respelled({"extra_args": ""}).field == "lists[3]"
    assert pickle.loads(pickle.dumps(there)).field == there.field


def test_other_names_stay() -> None:
    error = ConfigError("model.factor", required="`base`", given="factor", fix="`factors`")
    there = error.respelled(NAMES)
    assert (there.field, there.required) == ("model.factor", "`base`")
    assert (there.given, there.fix) == ("factor", "`factors`")


def test_nearest() -> None:
    assert nearest("LINEAR", ["linear", "ntk"]) == "linear"
    assert nearest("yarm", ["linear", "yarn"]) == "yarn"
    assert nearest("qqq", ["linear", "yarn"]) is None


def test_nearest_path(tmp_path: Path) -> None:
    (tmp_path / "models" / "llama").mkdir(parents=True)
    (tmp_path / "models" / "llama" / "config.json").touch()
    assert nearest_path(tmp_path / "model" / "lama") == tmp_path / "models" / "llama"
    assert nearest_path(tmp_path / "models" / "qwen") is None
    assert nearest_path(tmp_path / "models" / "llama" / "config.json" / "x") is None


def test_errors_that_do_not_depend_on_each_other_are_raised_as_one() -> None:
    def refuse(field: str) -> int:
        raise ConfigError(field, required=f"r{field}", given=1, fix=f"f{field}")

    together = Together()
    assert together.run(abs, -3) == 3
    together.stop()
    assert together.run(refuse, "a") is None
    with pytest.raises(ConfigError, match=r"^a: required ra; given 1\. To fix: fa$"):
        together.stop()
    together.keep(ConfigError("b", required="rb", given=2, fix="fb"))
    with pytest.raises(ConfigError) as caught:
        together.stop()
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert str(error) == "a: required ra; given 1. To fix: fa\nb: required rb; given 2. To fix: fb"
        assert (error.field, error.fix) == ("a, b", "a: fa; b: fb")
    assert caught.value.respelled({"b": "model.b"}).field == "a, model.b"
