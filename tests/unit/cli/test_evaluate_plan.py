"""What examples/evaluate.py decides before a model is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nemo_pi.checkpoint.manifest import MANIFEST
from nemo_pi.cli.evaluate_config import EvaluateConfig
from nemo_pi.cli.evaluate_plan import (
    choose_backend,
    choose_windows,
    describe_costs,
    names_of,
    plan_model,
    read_documents,
)
from nemo_pi.data.tokenizer import ByteTokenizer
from nemo_pi.errors import ConfigError, DataError

BUNDLED = Path(__file__).resolve().parents[3] / "demo" / "model"


@pytest.fixture
def distributed(tmp_path: Path) -> Path:
    (tmp_path / MANIFEST).write_text("{}")
    return tmp_path


def test_auto_takes_transformers_for_a_folder_on_one_rank_only(distributed: Path) -> None:
    folder = distributed / "huggingface"
    assert choose_backend(folder, "auto", 1) == "transformers"
    assert choose_backend(folder, "auto", 2) == "megatron"
    assert choose_backend(distributed, "auto", 1) == "megatron"


def test_a_request_is_kept_or_refused(distributed: Path) -> None:
    folder = distributed / "huggingface"
    assert choose_backend(folder, "megatron", 1) == "megatron"
    assert choose_backend(folder, "transformers", 1) == "transformers"
    for model, ranks in ((distributed, 1), (folder, 2)):
        with pytest.raises(ConfigError, match=r"^--backend: required megatron"):
            choose_backend(model, "transformers", ranks)


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


def test_models_are_told_apart_by_as_much_of_their_paths_as_it_takes() -> None:
    folders = ["base", "a/pi/huggingface", "a/yarn/huggingface", "b/yarn/huggingface"]
    assert names_of([Path(folder) for folder in folders]) == [
        "base",
        "pi/huggingface",
        "a/yarn/huggingface",
        "b/yarn/huggingface",
    ]
    assert names_of([Path("/same"), Path("/same")]) == ["/same", "/same"]


def test_costs_are_said_of_each_task_and_protocols_once() -> None:
    config = EvaluateConfig([str(BUNDLED)], tasks={"passkey": {"lengths": [256, 512], "trials": 3}})
    plans = 2 * [plan_model("model", BUNDLED, config, (512, 512))]
    first, second, protocol = describe_costs(plans).splitlines()
    assert first == second == "model: passkey: 11,520 tokens read, 2 batches"
    assert protocol.startswith("Passkey: five random digits, exact match under greedy decoding, 3 trials")
