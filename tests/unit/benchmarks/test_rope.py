"""The race of rotary kernels: everybody does the same work, and the verdict says what the numbers say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import rope
from benchmarks.rotary.contestants import CONTESTANTS, OURS
from benchmarks.rotary.report import Measured, verdict
from benchmarks.rotary.tasks import SHAPES, Inputs, Rotate, in_projection, separate

INPUTS = Inputs(SHAPES["llama-3-8b"], 8, "cpu", torch.float32)
ON_CPU = (*{OURS["cpu"]: 0, "nemo_pi torch": 0}, "nemo_pi reference", "transformers", "megatron-core")


def measured(ours: float, theirs: float, copy: float = 1.0) -> Measured:
    seconds = {"nemo_pi torch": [ours] * 3, "peer": [theirs] * 3, "copy": [copy] * 3}
    return Measured("a", 1024, "q and k", 1e9, seconds, dict.fromkeys(seconds, 0.0))


def test_contestants_agree() -> None:
    found = rope.field(INPUTS, list(CONTESTANTS))
    assert set(ON_CPU) <= set(found.rotates) and set(found.rotates) | set(found.absent) == set(CONTESTANTS)
    if not torch.cuda.is_available():
        assert found.absent["nemo_pi triton"] in ("runs on GPUs only", "not installed")


def test_whoever_fails_or_does_other_work_is_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(inputs: Inputs) -> Rotate:
        raise RuntimeError("no such symbol\nin a library")

    monkeypatch.setitem(CONTESTANTS, "broken", broken)
    monkeypatch.setitem(CONTESTANTS, "idler", lambda inputs: lambda q, k: (q, k))
    found = rope.field(INPUTS, ["broken", "idler", "nemo_pi torch"])
    assert list(found.rotates) == ["nemo_pi torch"]
    assert found.absent["broken"] == "RuntimeError: no such symbol"
    assert "idler is off by" in found.absent["idler"]


def test_whoever_fails_in_the_backward_pass_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = CONTESTANTS["nemo_pi reference"](INPUTS)
    who = rope.Field({"no way back": lambda q, k: plain(q.detach(), k.detach()), "plain": plain}, {})
    measured = rope.measure(INPUTS, separate(INPUTS), who, rope.parse(["--quick"]))
    assert set(measured.seconds) == {"plain", "copy"}
    assert who.absent["no way back"].startswith("q and k, 8 tokens: RuntimeError: ")


@pytest.mark.parametrize("task", [separate, in_projection])
def test_both_jobs_end_in_the_same_gradients(task: object) -> None:
    work = task(INPUTS).work  # type: ignore[operator]
    first, *others = (work(CONTESTANTS[name](INPUTS)) for name in ON_CPU)
    for other in others:
        for one, two in zip(first, other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_bytes_of_a_job() -> None:
    """40 heads of 128 channels in fp32; the projection's gradient has 8 value heads besides."""
    assert INPUTS.query_key_bytes == 8 * 40 * 128 * 4
    assert separate(INPUTS).moves == 4.0
    assert in_projection(INPUTS).moves * INPUTS.query_key_bytes == 8 * 128 * 4 * (2 * 40 + 2 * 48)


def test_verdict() -> None:
    ahead = verdict([measured(2.0, 3.0), measured(2.0, 8.0)], "nemo_pi torch")
    assert ahead.startswith("nemo_pi torch was ahead everywhere: 1.5 to 4.0 times") and "50% to 50%" in ahead
    assert "was behind peer on a, q and k, 1,024 tokens (2.00 times)" in verdict(
        [measured(2.0, 1.0)], "nemo_pi torch"
    )
    assert verdict([measured(1.0, 1.0)], "nemo_pi triton") == "nemo_pi triton did not take part."


def test_writes_results(tmp_path: Path) -> None:
    names = ["nemo_pi torch", "transformers", "flash-attention"]
    settings = ["--lengths", "16", "--rounds", "2", "--shapes", "llama-3-8b", "--results", str(tmp_path)]
    files = rope.main([*settings, "--contestants", *names])
    record = json.loads(files[0].read_text())
    assert {row["who"] for row in record["rows"]} == {"nemo_pi torch", "transformers", "copy"}
    assert any("flash-attention did not take part" in note for note in record["notes"])
    assert files[2].stat().st_size > 10_000
