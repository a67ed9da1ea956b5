"""Flags of a checkpoint's layout, and where its tokenizer is."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from nemo_pi.cli.flags import (
    add_layout_flags,
    add_model_flags,
    end_ids,
    layout_of,
    text_of,
    tokenizer_folder,
)
from nemo_pi.data.tokenizer import ByteTokenizer
from nemo_pi.errors import CheckpointError, ConfigError, DataError
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.model.models import SHAPE


def parsed(*arguments: str, flags: tuple[str, ...] = ()) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_layout_flags(parser, *flags)
    add_model_flags(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize(
    ("arguments", "ranks", "layout"),
    [
        ([], 1, ParallelLayout()),
        ([], 3, ParallelLayout(dp=3)),
        (["--tensor-model-parallel-size", "2"], 4, ParallelLayout(tp=2, dp=2)),
        (
            ["--pipeline-model-parallel-size", "2", "--context-parallel-size", "3"],
            6,
            ParallelLayout(pp=2, cp=3),
        ),
    ],
)
def test_the_layout_over_the_launched_ranks(
    arguments: list[str], ranks: int, layout: ParallelLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    assert layout_of(parsed(*arguments), SHAPE) == layout


def test_a_layout_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="world size 3"):
        layout_of(parsed("--tensor-model-parallel-size", "2"), SHAPE)
    with pytest.raises(ConfigError, match="tensor_model_parallel_size"):
        layout_of(parsed("--tensor-model-parallel-size", "3"), SHAPE)


def test_a_command_line_may_take_some_of_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    only = ("tensor_model_parallel_size",)
    args = parsed("--tensor-model-parallel-size", "2", flags=only)
    assert not hasattr(args, "context_parallel_size")
    assert layout_of(args, SHAPE) == ParallelLayout(tp=2)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("é", encoding="utf-8")
    assert text_of(tmp_path / "text") == "é"
    (tmp_path / "other").write_bytes(b"\xff\xfe")
    for name in ("other", "absent"):
        with pytest.raises(DataError, match=f"{name}: required a text file"):
            text_of(tmp_path / name)


def test_the_tokenizer_is_the_given_one_or_the_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--tokenizer"):
        tokenizer_folder(None, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert tokenizer_folder(None, tmp_path) == tmp_path
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    assert tokenizer_folder(None, tmp_path) == tmp_path / "tokenizer", "a distributed checkpoint's"
    assert tokenizer_folder(Path("other"), tmp_path) == Path("other")
    with pytest.raises(CheckpointError, match="no such folder"):
        tokenizer_folder(Path("other"), tmp_path / "absent")


def test_a_text_ends_where_the_checkpoint_says_else_with_the_tokenizer_s_token(tmp_path: Path) -> None:
    tokenizer = ByteTokenizer()
    assert end_ids(tmp_path, tokenizer) == (256,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    assert end_ids(tmp_path, tokenizer) == (1, 2)
    (tmp_path / "generation_config.json").unlink()
    tokenizer.eod_id = None
    assert end_ids(tmp_path, tokenizer) == ()
