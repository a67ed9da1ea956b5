from __future__ import annotations

from pathlib import Path

from nemo_pi.cli.evaluate_config import EvaluateConfig
from nemo_pi.cli.evaluate_origin import describe_checkpoint, describe_origin
from nemo_pi.cli.evaluate_plan import plan_model

BUNDLED = Path(__file__).resolve().parents[3] / "demo" / "model"


def test_a_report_names_the_checkpoint_and_every_key() -> None:
    config = EvaluateConfig(models=[str(BUNDLED)], tasks={"passkey": {"trials": 2, "lengths": (512,)}})
    plan = plan_model("bundled", BUNDLED, config, (512, 4096))
    origin = describe_origin(plan, config)
    assert origin["Model"]["folder"] == str(BUNDLED)
    assert origin["Model"]["checkpoint"] == "Hugging Face folder"
    assert origin["Model"]["parameters"] == "3.69 million"
    assert origin["Model"]["positions"] == "plain RoPE" and origin["Model"]["base"] == "10,000"
    assert origin["Computation"]["computed by"] == "transformers"
    assert origin["Computation"]["windows"] == "512 → 4,096 tokens"
    assert origin["Configuration"]["tasks.passkey.trials"] == "2"
    assert origin["Configuration"]["documents"] == "null" and "models" not in origin["Configuration"]


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    config = EvaluateConfig(models=[str(BUNDLED)], tasks={"passkey": {"trials": 1, "lengths": (512,)}})
    plan = plan_model("bundled", BUNDLED, config, (512, 512))
    assert describe_checkpoint(type(plan)(**{**vars(plan), "folder": tmp_path})) == {}
