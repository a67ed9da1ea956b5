"""What examples/evaluate.py decides before a model is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nemo_pi.cli.evaluate_config import EvaluateConfig
from nemo_pi.cli.evaluate_plan import (
    choose_windows,
    describe_costs,
    plan_model,
    read_documents,
)
from nemo_pi.data.tokenizer import ByteTokenizer
from nemo_pi.errors import ConfigError, DataError

BUNDLED = Path(__file__).resolve().parents[3] / "demo" / "model"


def test_documents_longer_than_the_window_are_read(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    lines = [json.dumps({"text": length * "a"}) for length in (3, 9, 8)]
    lines.append('{"text": "a\u2028"}')  # ends a line for str.splitlines, but not for JSON lines
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert read_documents(path, ByteTokenizer(), 8) == [[97] * 9]
    with pytest.raises(DataError, match=r"more than 9 tokens.*longest of 9"):
        read_documents(path, ByteTokenizer(), 9)


@pytest.mark.parametrize("line", ["no json", '{"title": "x"}', '["text"]'])
def test_a_line_that_is_no_document_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(DataError, match=r"text\.jsonl:2"):
        read_documents(path, ByteTokenizer(), 1)


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
    # Given both, a checkpoint that only transformers can read needs not say.
    assert choose_windows(EvaluateConfig(["none"], None, 2, 4, {"passkey": None})) == (2, 4)


def test_costs_are_said_of_each_task_and_protocols_once() -> None:
    config = EvaluateConfig([str(BUNDLED)], tasks={"passkey": {"lengths": [256, 512], "trials": 3}})
    plans = 2 * [plan_model("model", BUNDLED, config, (512, 512))]
    first, second, protocol = describe_costs(plans).splitlines()
    assert first == second == "model: passkey: 11,520 tokens read, 2 batches"
    assert protocol.startswith("Passkey: five random digits, exact match under greedy decoding, 3 trials")
