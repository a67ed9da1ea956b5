"""What examples/advise.py refuses of a checkpoint before it is loaded; other mistakes: test_advise.py."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.cli import advise_arguments
from nemo_pi.errors import CheckpointError
from tests.unit.test_docs import parser_of

MODEL = Path(__file__).resolve().parents[3] / "demo" / "model"


def test_a_distributed_checkpoint_is_refused_with_the_command_that_converts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advise_arguments, "read_summary", lambda _: read_summary(MODEL))
    monkeypatch.setattr(advise_arguments, "choose_backend", lambda *_, **__: "megatron")
    with pytest.raises(CheckpointError) as raised:
        advise_arguments.readable(tmp_path)
    words = shlex.split(raised.value.fix.partition(", and give")[0])
    assert words[:2] == ["python", "examples/convert_checkpoint.py"]
    monkeypatch.setattr(sys, "argv", words[1:])
    assert parser_of("convert_checkpoint")().source == tmp_path
