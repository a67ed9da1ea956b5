"""What an entry of `stages` may say, in which spellings, and how a mistake in one is answered."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from nemo_pi.config.load import resolve, resolve_stages
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.config.schema import ModelConfig
from nemo_pi.config.stages import _OF_THE_RUN
from nemo_pi.errors import ConfigError
from tests.unit.config.builders import summary_of, values_of

TWO = [{"max_steps": 30, "pose": "paper", "optim.lr": 1e-3}, {"max_steps": 50, "optim": {"lr": 5e-4}}]


def staged(stages: Any, model: dict[str, Any] | None = None, **top: Any) -> tuple[ResolvedRun, ...]:
    return resolve_stages(values_of(model, stages=stages, **top), world_size=1, summary=summary_of())


def refused(stages: Any, model: dict[str, Any] | None = None, **top: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        staged(stages, model, **top)
    return caught.value


def test_a_stage_is_the_run_with_its_own_keys() -> None:
    first, second = staged(TWO, {"optim": {"weight_decay": 0.1}})
    assert first.pose is not None and first.pose.sampler == "paper" and second.pose is None
    assert (first.optim.lr, second.optim.lr) == (1e-3, 5e-4)
    assert first.optim.weight_decay == second.optim.weight_decay == 0.1
    assert (first.max_steps, second.max_steps, second.last_step) == (30, 50, 80)
    assert (first.schedule.max_steps, second.schedule.max_steps) == (30, 50)
    plain = resolve(values_of({"optim": {"lr": 5e-4}}), world_size=1, summary=summary_of())
    assert second.engine.extension == plain.engine.extension
    assert first.config.stages is None and first.config.model.stages is None


SPELLINGS = (
    {"optim.sched.warmup_steps": 3},
    {"optim": {"sched": {"warmup_steps": 3}}},
    {"optim.sched": {"warmup_steps": 3}},
    {"optim": {"sched.warmup_steps": 3}},
    {"model.optim.sched.warmup_steps": 3},
    {"model": {"optim": {"sched": {"warmup_steps": 3}}}},
)


@pytest.mark.parametrize("spelling", SPELLINGS, ids=[f"{one}" for one in SPELLINGS])
def test_dotted_and_nested_keys_mean_the_same(spelling: dict[str, Any]) -> None:
    (only,) = staged([{"max_steps": 9, **spelling}], {"optim": {"sched": {"min_lr": 1e-6}}})
    assert (only.optim.sched.warmup_steps, only.optim.sched.min_lr) == (3, 1e-6)


def test_numbered_keys_of_the_command_line_are_a_list() -> None:
    assert staged({"1": TWO[1], "0": TWO[0]}) == staged({0: TWO[0], 1: TWO[1]}) == staged(TWO)
    assert refused({"0": TWO[0], "2": TWO[1]}).field == "stages"


def test_the_list_may_stand_under_model() -> None:
    stages = [{"trainer.max_steps": 30}, {"trainer": {"max_steps": 50}}]
    assert staged(None, {"stages": stages}) == staged([{"max_steps": 30}, {"max_steps": 50}])
    assert refused(TWO, {"stages": stages}).field == "stages"


def test_the_run_of_a_configuration_with_stages_is_the_last_one() -> None:
    values = values_of(stages=TWO)
    assert resolve(values, world_size=1, summary=summary_of()) == staged(TWO)[-1]


def test_a_window_replaces_the_run_s_factor_and_a_factor_its_window() -> None:
    stages = [
        {"max_steps": 30, "max_position_embeddings": 1024},
        {"max_steps": 30, "pos_scaling_factor": 4.0},
        {"max_steps": 30},
    ]
    model = {"max_position_embeddings": 4096, "pos_scaling_factor": 8.0}
    runs = staged(stages, model)
    assert [run.extension.target_window for run in runs] == [1024, 2048, 4096]
    assert [run.extension.factor for run in runs] == [2.0, 4.0, 8.0]  # from 512 each time
    assert {run.extension.original_window for run in runs} == {512}


def test_arguments_of_another_method_are_left_behind() -> None:
    model = {"pos_scaling_type": "yarn", "pos_scaling_extra_args": {"beta_fast": 16.0}}
    runs = staged([{"max_steps": 30}, {"max_steps": 30, "pos_scaling_type": "linear"}], model)
    assert [run.extension.extra_args for run in runs] == [runs[0].extension.extra_args, {}]
    assert runs[0].extension.extra_args["beta_fast"] == 16.0


def test_prolong_s_bases_follow_each_other() -> None:
    method = {"max_steps": 30, "pos_scaling_type": "abf"}
    stages = [
        {**method, "max_position_embeddings": 4096, "pos_scaling_extra_args": {"base": 8e6}},
        {**method, "max_position_embeddings": 32768, "pos_scaling_extra_args": {"base": 1.28e8}},
    ]
    runs = staged(stages)
    assert [run.extension.extra_args["base"] for run in runs] == [8e6, 1.28e8]


def test_only_the_last_stage_exports_to_the_run_s_folder() -> None:
    export = {"export": {"hf_path": "/out", "dtype": "bfloat16"}}
    runs = staged(
        [{"max_steps": 30, "export.hf_path": "/first"}, {"max_steps": 30}, {"max_steps": 30}], export
    )
    assert [run.export.hf_path for run in runs] == ["/first", None, "/out"]
    assert {run.export.dtype for run in runs} == {"bfloat16"}
    same = refused([{"max_steps": 30, "export.hf_path": "/out"}, {"max_steps": 30}], export)
    assert same.field == "stages[1].export.hf_path"


REFUSED = (
    ([], "stages", "a list of sections"),
    ({"max_steps": 3}, "stages", "a list of sections"),
    ([3], "stages[0]", "a section"),
    ([{}], "stages[0].max_steps", "optimizer steps"),
    ([{"max_steps": 30}, {"max_steps": None}], "stages[1].max_steps", "optimizer steps"),
    ([{"max_steps": 30}, {"max_steps": 0}], "stages[1].max_steps", "1 to"),
    ([{"max_steps": 30}, {"max_steps": "many"}], "stages[1].max_steps", "whole number"),
    ([{"steps": 30}], "stages[0].steps", "a key of"),
    ([{"max_steps": 30, "lr": 1e-3}], "stages[0].lr", "a key of"),
    ([{"max_steps": 30, "optim": {"lrr": 1}}], "stages[0].optim.lrr", "a key of"),
    ([{"max_steps": 30, "max_steps.x": 1}], "stages[0].max_steps.x", "a key of"),
    ([{"max_steps": 30, "optim.lr": "fast"}], "stages[0].optim.lr", "number"),
    ([{"max_steps": 30, "reset_optimizer": 1}], "stages[0].reset_optimizer", "true or false"),
    ([{"max_steps": 30}, {"max_steps": 30, "num_layers": 3}], "stages[1].num_layers", "one for all stages"),
    ([{"max_steps": 30}, {"max_steps": 9}], "stages[1].optim.sched.warmup_steps", "0 to 8"),
    ([{"max_steps": 30, "max_position_embeddings": 64}], "stages[0].max_position_embeddings", "at least"),
    ([{"max_steps": 30, "pose": "papr"}, {"max_steps": 30}], "stages[0].data.pose.sampler", "paper"),
)


@pytest.mark.parametrize(("stages", "field", "required"), REFUSED, ids=[case[1] for case in REFUSED])
def test_a_mistake_is_named_by_its_stage(stages: Any, field: str, required: str) -> None:
    error = refused(stages)
    assert error.field == field
    assert required in error.required
    assert error.fix


def test_the_nearest_key_is_offered() -> None:
    assert refused([{"max_steps": 30, "lr": 1}]).fix == "did you mean stages[0].optim.lr?"
    assert refused([{"max_stepz": 30}]).fix == "did you mean stages[0].max_steps?"
    assert refused([{"max_steps": 30, "data.pse": 1}]).fix == "did you mean stages[0].data.pose?"


def test_mistakes_of_all_stages_come_together_and_shared_ones_once() -> None:
    error = refused(
        [{"max_steps": 30, "optim.lr": -1.0}, {"max_steps": 9}],
        {"global_batch_size": 2},
        trainer={"num_nodez": 1},
    )
    assert error.field == "trainer.num_nodez"
    error = refused([{"max_steps": 30, "optim.lr": -1.0}, {"max_steps": 9}], {"seed": -1})
    assert error.field == "model.seed, stages[0].optim.lr, stages[1].optim.sched.warmup_steps"


def test_a_fix_is_an_override_that_works() -> None:
    error = refused([{"max_steps": 30}, {"max_steps": 9}])
    key, _, value = error.fix.partition("=")
    assert (key, value) == ("stages.1.optim.sched.warmup_steps", "8")
    staged([{"max_steps": 30}, {"max_steps": 9, "optim": {"sched": {"warmup_steps": 8}}}])


def test_keys_of_the_run_are_keys_of_the_model() -> None:
    assert set(_OF_THE_RUN) - {"peft"} <= {field.name for field in fields(ModelConfig)}
