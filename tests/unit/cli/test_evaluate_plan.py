"""What examples/evaluate.py decides before a model is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, processors

from nemo_pi.cli.evaluate_config import EvaluateConfig
from nemo_pi.cli.evaluate_plan import (
    choose_windows,
    describe_costs,
    plan_model,
)
from nemo_pi.errors import ConfigError

BUNDLED = Path(__file__).resolve().parents[3] / "demo" / "model"


def test_windows_are_the_checkpoints_own_unless_given(tmp_path: Path) -> None:
    extended = Path(shutil.copytree(BUNDLED, tmp_path / "extended"))
    config = json.loads((extended / "config.json").read_text())
    config["rope_parameters"] = {**config["rope_parameters"], "rope_type": "linear", "factor": 8.0}
    config["max_position_embeddings"] = 4096
    (extended / "config.json").write_text(json.dumps(config))
    models = [str(BUNDLED), str(extended)]
    assert choose_windows(EvaluateConfig(models, tasks={"passkey": None})) == (512, 4096)
    given = EvaluateConfig(models, target_window=1024, tasks={"passkey": None})
    assert choose_windows(given) == (512, 1024)
    with pytest.raises(ConfigError, match=r"^original_window: .*no such path.*give original_window="):
        choose_windows(EvaluateConfig(["none"], tasks={"passkey": None}))
    (extended / "model.safetensors").unlink()
    (extended / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"given a PEFT adapter.*convert_checkpoint\.py CHECKPOINT"):
        choose_windows(EvaluateConfig([str(extended)], tasks={"passkey": None}))
    # Given both, a checkpoint that only transformers can read needs not say.
    assert choose_windows(EvaluateConfig(["none"], None, 2, 4, {"passkey": None})) == (2, 4)


def test_costs_are_said_of_each_task_and_protocols_once() -> None:
    config = EvaluateConfig([str(BUNDLED)], tasks={"passkey": {"lengths": [256, 512], "trials": 3}})
    plans = 2 * [plan_model("model", BUNDLED, config, (512, 512))]
    first, second, protocol = describe_costs(plans).splitlines()
    assert first == second == "model: passkey: 11,520 tokens read, 2 batches"
    assert protocol.startswith("Passkey: five random digits, exact match under greedy decoding, 3 trials")


def post_processed(folder: Path, template: str) -> Path:
    """The bundled model with a tokenizer whose post-processor adds the end of text, as others add a BOS."""
    shutil.copytree(BUNDLED, folder)
    values = json.loads((folder / "tokenizer.json").read_text())
    token = values["added_tokens"][0]
    tokenizer = Tokenizer.from_str(json.dumps(values))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template.format(token["content"]), special_tokens=[(token["content"], token["id"])]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("asked", [None, True, False])
@pytest.mark.parametrize("template", ["{} $A", "$A"])
def test_a_text_begins_as_the_tokenizer_begins_it(asked: bool | None, template: str, tmp_path: Path) -> None:
    """Every Llama's adds a BOS, and was measured without."""
    folder = post_processed(tmp_path / "model", template)
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "In the beginning was the word. " * 40}))
    config = EvaluateConfig(
        [str(folder)],
        str(tmp_path / "text.jsonl"),
        tasks={"perplexity": None, "passkey": None},
        add_bos=asked,
    )
    adds = template == "{} $A"
    if asked and not adds:  # this tokenizer has no BOS of its own
        with pytest.raises(ConfigError, match=r"^add_bos"):
            plan_model("m", folder, config, (256, 256))
        return
    perplexity, passkey = plan_model("m", folder, config, (256, 256)).planned
    wanted = adds if asked is None else asked
    token = json.loads((folder / "tokenizer.json").read_text())["added_tokens"][0]["id"]
    assert perplexity.plan.protocol["bos_id"] == (token if wanted else None)
    assert passkey.plan.protocol["bos"] == wanted
    for plan in (perplexity.plan, passkey.plan):
        assert ("no BOS" in plan.protocol["summary"]) != wanted


def test_tasks_are_told_what_ends_a_text_of_this_model(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BUNDLED, tmp_path / "model"))
    config = EvaluateConfig([str(folder)], tasks={"passkey": {"lengths": [256]}})
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    assert plan_model("m", folder, config, (512, 512)).context.end_ids == (7, 9)
