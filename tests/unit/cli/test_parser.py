"""Flags in full only, in every command line of the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nemo_pi.cli.evaluate_arguments import parse as parse_evaluation
from nemo_pi.cli.generate import parse as parse_generation
from nemo_pi.cli.parser import Parser

ROOT = Path(__file__).parents[3]
FOLDERS = ("nemo_pi", "examples", "benchmarks", "demo", "tools", "docker")


def refused(parse: object, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        parse(arguments=arguments)  # type: ignore[operator]
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_the_nearest_flag_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(parse_evaluation, ["model", "--document", "a", "--passkey-trial=0", "--zzz"], capsys)
    assert "write --documents for --document; write --passkey-trials for --passkey-trial" in said
    assert "--zzz" in said and "for --zzz" not in said
    # What is missing is said first; what was given instead stands beside it.
    said = refused(parse_generation, ["--modle", "a", "--prompt", "b", "--max-new-tokens", "1"], capsys)
    assert "required: --model" in said and "To fix: write --model for --modle" in said


def test_other_mistakes_are_argparse_s(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(parse_evaluation, ["model", "--stride", "many"], capsys)
    assert "argument --stride: invalid int value" in said and "To fix" not in said


def test_words_behind_two_dashes_are_no_flags() -> None:
    parser = Parser()
    parser.add_argument("words", nargs="*")
    parser.add_argument("--tokens", type=int)
    assert parser.parse_args(["--tokens=2", "--", "--token"]).words == ["--token"]


def test_no_command_line_takes_abbreviations() -> None:
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for call in re.findall(r"argparse\.ArgumentParser\([^)]*\)", path.read_text(encoding="utf-8")):
            assert "allow_abbrev=False" in call or path.name == "parser.py", path
