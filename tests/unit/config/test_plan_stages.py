"""The plan of stages: every one's windows, steps, tokens and memory, and no row twice without need."""

from __future__ import annotations

from nemo_pi.config.plan import render_plan
from nemo_pi.config.plan_stages import render_stages
from tests.unit.config.builders import run_of
from tests.unit.config.test_stages import staged


def test_without_stages_it_is_the_plan() -> None:
    run = run_of()
    assert render_stages([run]) == render_plan(run)


def test_every_stage_shows_what_is_its_own() -> None:
    stages = [
        {"max_steps": 30, "pose": "paper", "pos_scaling_type": "yarn"},
        {"max_steps": 50, "max_position_embeddings": 8192, "reset_optimizer": True},
    ]
    first, second = render_stages(staged(stages)).split("\nStage ")[1:]
    assert first.startswith("1 of 2: steps 1 to 30\n")
    assert second.startswith("2 of 2: steps 31 to 80, Adam begins anew, data from sample 2 on\n")
    wanted = ("original", "target", "training length", "method", "factor", "steps", "tokens", "total")
    for text in (first, second):
        assert all(f"\n  {label} " in text for label in (*wanted, "learning rate")), text
    assert "4,096 tokens" in first and "8,192 tokens" in second
    assert "512 a step, 15,360 in all" in first and "8,192 a step, 409,600 in all" in second
    assert "seed" in first and "seed" not in second


def test_a_run_s_sum_stands_above() -> None:
    plan = render_stages(staged([{"max_steps": 30}, {"max_steps": 50}]))
    assert plan.splitlines()[0] == "Plan of run: 2 stages, 80 steps, 327,680 tokens"
