"""What examples/evaluate.py decides before a model is loaded."""

from __future__ import annotations

import gzip
import json
import lzma
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, processors

from nemo_pi.cli.evaluate_config import EvaluateConfig
from nemo_pi.cli.evaluate_plan import (
    choose_windows,
    describe_costs,
    plan_model,
    read_documents,
)
from nemo_pi.data.encoding import Encoder, EncodingRules
from nemo_pi.data.jsonl import read_lines
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


@pytest.mark.parametrize("packed", ["", ".gz", ".xz"])
def test_documents_are_read_as_preprocessing_reads_them(packed: str, tmp_path: Path) -> None:
    """A byte order mark, blank lines, lines ended by CR LF, compressed files, and folders."""
    content = b'\xef\xbb\xbf{"text": "abc"}\r\n\r\n  \n{"text": "", "x": null}\n{"text": "abcd"}'
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[packed]
    path = tmp_path / "held" / f"text.jsonl{packed}"
    path.parent.mkdir()
    path.write_bytes(pack(content))
    rules = EncodingRules({"library": "byte"})
    prepared = [ids.tolist() for (ids,) in Encoder(rules)(read_lines([path])) if ids.size > 2]
    for given in (path, path.parent):
        assert read_documents(given, ByteTokenizer(), 2) == prepared == [[97, 98, 99], [97, 98, 99, 100]]


@pytest.mark.parametrize(
    "line", ['{"text": null}', '{"text": 7}', '{"text": ["a"]}', '"text"', "[" * 5000, '{"text": "\\ud800"}']
)
def test_a_document_that_is_no_text_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text(f'{{"text": "fine"}}\n\n{line}\n')
    with pytest.raises(DataError, match=r"text\.jsonl:3") as caught:
        read_documents(path, ByteTokenizer(), 1)
    assert "--json-keys" not in str(caught.value), "a flag of another command"


def test_a_damaged_file_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.jsonl.gz").write_bytes(gzip.compress(b'{"text": "abc"}\n' * 99)[:-9])
    with pytest.raises(DataError, match=r"text\.jsonl\.gz, after line"):
        read_documents(tmp_path / "text.jsonl.gz", ByteTokenizer(), 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"^documents: "):
        read_documents(tmp_path / "empty", ByteTokenizer(), 1)


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
