"""What examples/generate.py decides before a model is loaded; tests/integration run the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_pi.cli.generate import one_replica, parse, prompt_ids
from nemo_pi.data.tokenizer import ByteTokenizer
from nemo_pi.errors import ConfigError
from nemo_pi.parallel.layout import ParallelLayout

REQUIRED = ("--model", "folder", "--max-new-tokens", "5")


class WithBeginning(ByteTokenizer):
    bos_id: int | None = 257


def test_the_prompt_comes_from_the_command_line_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("hé", encoding="utf-8")
    assert prompt_ids(parse(arguments=[*REQUIRED, "--prompt", "ab"]), ByteTokenizer()) == [97, 98]
    from_file = parse(arguments=[*REQUIRED, "--prompt-file", str(tmp_path / "prompt.txt")])
    assert prompt_ids(from_file, ByteTokenizer()) == list("hé".encode())


def test_one_prompt_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--prompt", "a", "--prompt-file", "b"]):
        with pytest.raises(SystemExit):
            parse(arguments=[*REQUIRED, *more])
    assert "not allowed with argument --prompt" in capsys.readouterr().err


def test_a_beginning_of_text_needs_such_a_token() -> None:
    args = parse(arguments=[*REQUIRED, "--prompt", "a", "--add-bos"])
    assert prompt_ids(args, WithBeginning()) == [257, 97]
    with pytest.raises(ConfigError, match=r"^--add-bos"):
        prompt_ids(args, ByteTokenizer())


def test_all_ranks_share_the_one_model() -> None:
    layout = ParallelLayout(tp=2)
    assert one_replica(layout) is layout
    with pytest.raises(ConfigError, match="required 4, the number of ranks"):
        one_replica(ParallelLayout(tp=2, dp=2))
    with pytest.raises(ConfigError, match="required 2, the number of ranks that pipeline and context leave"):
        one_replica(ParallelLayout(pp=2, dp=2))


class WithStart(WithBeginning):
    start_ids = (258, 259)


@pytest.mark.parametrize(
    ("flag", "plain", "adding"),
    [([], [97], [258, 259, 97]), (["--add-bos"], [257, 97], [258, 259, 97]), (["--no-add-bos"], [97], [97])],
)
def test_a_prompt_begins_as_the_tokenizer_begins_it(
    flag: list[str], plain: list[int], adding: list[int]
) -> None:
    args = parse(arguments=[*REQUIRED, "--prompt", "a", *flag])
    assert prompt_ids(args, WithBeginning()) == plain
    assert prompt_ids(args, WithStart()) == adding
