"""The command line, as NeMo's users type it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nemo_pi.cli.preprocess import main, parser, to_config
from nemo_pi.data.indexed import open_indexed

ROOT = Path(__file__).resolve().parents[3]
NEMO = (
    "--input in.jsonl --json-keys text title --tokenizer-library megatron --tokenizer-type GPT2BPETokenizer "
    "--vocab-file v.json --merge-file m.txt --output-prefix out --append-eod --workers 3 --dataset-impl mmap "
    "--log-interval 10"
)


def test_nemo_flags() -> None:
    config = to_config(parser().parse_args(NEMO.split()))
    assert (config.input, config.output_prefix, config.json_keys) == ("in.jsonl", "out", ("text", "title"))
    assert config.append_eod and not config.overwrite
    assert (config.workers, config.log_interval) == (3, 10)
    assert config.tokenizer["library"] == "megatron"
    assert (config.tokenizer["vocab_file"], config.tokenizer["merge_file"]) == ("v.json", "m.txt")


def test_other_dataset_kinds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(NEMO.replace("mmap", "lazy").split())
    assert "mmap" in capsys.readouterr().err


def test_mistakes_end_with_a_message_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "--input",
        str(tmp_path / "no"),
        "--tokenizer-library",
        "byte",
        "--output-prefix",
        str(tmp_path / "o"),
    ]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --input") and "Traceback" not in error


def test_script_from_the_shell(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "ab"}\n' * 70)
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "preprocess_data.py"), "--input", "in.jsonl", "--append-eod"]
        + ["--tokenizer-library", "byte", "--output-prefix", "out", "--workers", "2"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["70 documents, 210 tokens, 0 empty left out", "out_text_document"]
    assert "Apex" not in done.stderr
    indexed = open_indexed(tmp_path / "out_text_document")
    assert indexed[69].tolist() == [97, 98, 256]
