"""A GPU's first minutes, tried without one: cases resolve, parts stand alone, all of it runs in small."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.parts import Case, _known, parts, stack
from benchmarks.gpu.report import rows, verdict
from benchmarks.gpu.worker import measure, run_of, run_part
from nemo_pi.errors import BackendUnavailableError

WHOLE = parts(small=False)


@pytest.mark.parametrize("part", WHOLE, ids=lambda part: part.name)
def test_every_case_of_a_gpu_resolves_or_lacks_the_gpu_alone(part: Any) -> None:
    for case in part.cases:
        if case.kind == "rotary":
            continue
        try:
            run = run_of(replace(case, precision="32"), world_size=part.ranks)
        except BackendUnavailableError:
            # What this machine lacks; the settings themselves have passed their checks by then.
            continue
        assert run.training_length == case.length


def test_the_whole_fits_into_its_minutes() -> None:
    # Limits are twice what is expected; the last part needs a second GPU.
    assert sum(part.seconds for part in WHOLE if part.ranks == 1) / 2 < 8 * 60
    assert gpu.parse([]).minutes == 8


def test_a_stack_adds_one_trick_after_the_other_and_leaves_out_what_there_is_not() -> None:
    cases = list(stack(32768, small=False))
    assert [case.name for case in cases][:2] == ["chunked loss", "+ recomputed layers"]
    for before, after in pairwise(cases[:-1]):
        assert before.model.items() <= after.model.items()
    assert cases[-1].model["activations_checkpoint_modules"] == ["all_but_core_attn"]
    assert not _known({"no_such_key": 1}) and not _known({"optim": {"no_such_key": 1}})


@pytest.fixture
def fresh_groups() -> Any:
    """The parts make groups of their own."""
    from nemo_pi.parallel import groups

    groups.destroy()
    yield
    groups.destroy()


def test_a_case_that_fails_is_reported_and_the_others_go_on(
    fresh_groups: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small,) = (part for part in parts(small=True) if part.name == "stack-64")
    broken = Case("broken", size="2x64", length=64, model={"loss": "no such loss"}, precision="32")
    part = replace(small, cases=(broken, *small.cases[:3]))
    monkeypatch.setattr("benchmarks.gpu.worker.parts", lambda small: (part,))
    channel = io.StringIO()
    run_part("stack-64", "cpu", small=True, channel=channel)
    found = [json.loads(line) for line in channel.getvalue().splitlines()]
    assert [one["ok"] for one in found] == [False, True, True, True]
    assert found[0]["reason"].startswith("ConfigError: model.loss")
    losses = [one["losses"] for one in found[1:]]
    # What saves memory changes no loss.
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=1e-5)
    assert all(one["estimate_mib"] > 0 and one["seconds"] > 0 for one in found[1:])


def test_packed_documents_and_new_tokens(fresh_groups: None) -> None:
    packed = measure(Case("packed", size="2x64", length=64, precision="32", kind="packed"), "cpu", small=True)
    assert len(packed["losses"]) == 3
    from benchmarks.gpu.worker import _clear

    _clear()
    (part,) = (part for part in parts(small=True) if part.name == "parity")
    assert len(measure(part.cases[1], "cpu", small=True)["tokens"]) == 16


def test_a_part_whose_process_fails_or_hangs_is_reported() -> None:
    part = replace(parts(small=True)[0], name="no-such-part")
    (failed,) = gpu.run_part(part, "cpu", 300)
    assert not failed["ok"] and "status 1" in failed["reason"]
    (hung,) = gpu.run_part(parts(small=True)[0], "cpu", 0.2)
    assert hung["reason"] == "it was ended after 0 s"


def test_what_takes_more_gpus_than_there_are_says_so() -> None:
    (part,) = (part for part in WHOLE if part.ranks == 2)
    (lost,) = gpu.run_part(part, "cuda", 10)
    assert lost["reason"] == "it takes 2 GPUs, and there are 0"


def test_a_dry_run_names_every_part_and_runs_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--dry-run"]) == []
    said = capsys.readouterr().out
    assert all(part.name in said for part in WHOLE)


def found(part: str, case: str, **values: Any) -> dict[str, Any]:
    return {"part": part, "case": case, "ok": True, **values}


def test_the_verdict_says_what_runs_and_whether_it_is_the_same() -> None:
    memory = {"seconds": 1.0, "peak_mib": 2048.0, "estimate_mib": 2100.0}
    every = [
        found("backends", "auto", losses=[10.0], **memory),
        found("backends", "rotary: triton", losses=[10.1], **memory),
        found("backends", "packed documents", losses=[3.0], **memory),
        {"part": "backends", "case": "rotary: apex", "ok": False, "reason": "ImportError: apex"},
        found("parity-cpu", "steps", losses=[5.0, 4.0]),
        found("parity", "steps", losses=[5.0001, 4.0]),
        found("parity-cpu", "greedy tokens", tokens=[1, 2]),
        found("parity", "greedy tokens", tokens=[1, 2]),
        found("stack-32k", "chunked loss", losses=[9.0], **memory),
    ]
    said = verdict(every)
    assert said.startswith("8 of 9 cases run; losses in fp32 within 0.0002 of the CPU's (2.0e-05)")
    assert "the same greedy tokens; kernels agree on the loss; 1 of 1 memory estimates" in said
    assert rows(every)[3]["why not"] == "ImportError: apex"
    every[1]["losses"], every[5]["losses"], every[7]["tokens"] = [11.0], [5.1, 4.0], [1, 3]
    said = verdict(every)
    assert "NOT within" in said and "OTHER greedy tokens" in said
    assert "losses differ with rotary: triton" in said


@pytest.mark.slow
def test_the_command_in_small(tmp_path: Path) -> None:
    wanted = ["parity-cpu", "parity", "context-parallel"]
    gpu.main(["--device", "cpu", "--only", *wanted, "--minutes", "10", "--results", str(tmp_path)])
    (file,) = tmp_path.glob("*-gpu-small-*.json")
    record = json.loads(file.read_text(encoding="utf-8"))
    assert [row["runs"] for row in record["rows"]] == ["yes"] * 5
    assert "(0.0e+00), the same greedy tokens" in record["verdict"]
    assert not any("Not finished" in note for note in record["notes"])
