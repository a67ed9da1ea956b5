"""Races: the fastest is taken, the broken passed over, verdicts kept where nothing asked for is at stake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nemo_pi.kernels import native, verdicts
from nemo_pi.kernels.backends import JOBS, candidates, choose, register, unregister
from nemo_pi.kernels.capability import RotaryNeeds
from nemo_pi.kernels.needs import ActivationNeeds, AttentionNeeds, Capability, Needs, NormNeeds, ProductNeeds
from nemo_pi.kernels.norm import rms_norm_torch
from nemo_pi.kernels.race import SWITCH, race, racing, waiting
from nemo_pi.kernels.registry import Backend
from nemo_pi.kernels.rotary import KERNELS
from nemo_pi.kernels.verdicts import FILE, PLACE

NEEDS: dict[str, Any] = {
    "attention": AttentionNeeds(width=16, heads=4, groups=2, tokens=70),
    "norm": Needs(width=48, tokens=9),
    "activation": Needs(width=32, tokens=9),
    "softmax": Needs(width=64, tokens=9),
    "matmul": ProductNeeds(width=32, tokens=9, outputs=(48, 64)),
    "rotary": RotaryNeeds(16, heads=4, tokens=9),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Races as users have them, with a cache folder that is not there yet."""
    monkeypatch.setenv(SWITCH, "1")
    monkeypatch.setenv(PLACE, str(tmp_path / "cache"))
    verdicts.forget()
    yield tmp_path / "cache" / FILE
    verdicts.forget()


def slow(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    time.sleep(0.02)
    return rms_norm_torch(x, weight, eps)


def wrong(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return 2 * rms_norm_torch(x, weight, eps)


def broken(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    raise OSError("no such instruction")


def norm(name: str, function: Callable[..., Tensor]) -> Backend:
    return Backend(name, "norm", Capability(), lambda: function)


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("job", [*JOBS, "rotary"])
def test_all_that_can_do_a_job_race_and_agree(
    job: str, mode: Callable[[], AbstractContextManager[Any]]
) -> None:
    known = KERNELS if job == "rotary" else candidates(job)
    able = [one for one in known if one.unusable(NEEDS[job]) is None]
    with mode():  # models are built where gradients are off, too
        seconds = race(job, NEEDS[job], able)
    assert set(seconds) == {one.name for one in able}
    assert all(0 < value < 10 for value in seconds.values())


@pytest.mark.parametrize(
    ("job", "needs"),
    [
        ("norm", NormNeeds(width=48, tokens=9, norm="LayerNorm")),
        ("activation", ActivationNeeds(width=32, tokens=9, function="gelu_tanh")),
        ("activation", ActivationNeeds(width=32, tokens=9, function="relu2", gated=False)),
    ],
)
def test_other_kinds_are_tried_for_what_they_are(job: str, needs: Needs) -> None:
    able = [one for one in candidates(job) if one.unusable(needs) is None]
    assert set(race(job, needs, able)) == {"torch"}


def test_the_fastest_is_taken_whatever_the_order() -> None:
    dawdler = norm("dawdler", slow)
    register(dawdler)
    try:
        choice = choose("norm", "auto", NEEDS["norm"], racing("norm", NEEDS["norm"]))
        assert choice.name in ("native", "torch")
        assert choice.describe().startswith(f"{choice.name} (auto: ") and "dawdler 2" in choice.describe()
        assert "measured here: " in choice.said
        assert choose("norm", "dawdler", NEEDS["norm"], racing("norm", NEEDS["norm"])).describe() == "dawdler"
    finally:
        unregister(dawdler)


@pytest.mark.parametrize(
    ("function", "reason"), [(wrong, "its result is not"), (broken, "no such instruction")]
)
def test_broken_backends_are_passed_over(
    function: Callable[..., Tensor], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    fair = norm("torch", rms_norm_torch)
    assert set(race("norm", NEEDS["norm"], [norm("odd", function), fair])) == {"torch"}
    assert "auto passes over odd" in caplog.text and reason in caplog.text


def test_who_is_far_behind_runs_no_second_round() -> None:
    calls = []

    def dawdles(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        calls.append(eps)
        time.sleep(0.1)
        return rms_norm_torch(x, weight, eps)

    seconds = race("norm", NEEDS["norm"], [norm("dawdler", dawdles), norm("torch", rms_norm_torch)])
    assert len(calls) == 2 and seconds["torch"] < 0.1 <= seconds["dawdler"]


def test_a_race_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    race("norm", NEEDS["norm"], candidates("norm")[1:])
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("needs", "switch"),
    [
        (Needs(width=48), "1"),  # of unknown length
        (Needs(width=48, tokens=9, device_type="cuda"), "1"),
        (Needs(width=48, tokens=9), "0"),
    ],
)
def test_where_nothing_is_raced(needs: Needs, switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, switch)
    assert racing("norm", needs) is None


def verdict(names: tuple[str, ...] = ("native", "torch")) -> dict[str, float]:
    """The verdict of a race between backends that cannot run: one from memory or disk, if there is one."""
    measure = racing("norm", NEEDS["norm"])
    assert measure is not None
    return dict(measure([norm(name, broken) for name in names]))


def known_key() -> str:
    return verdicts.key("norm", NEEDS["norm"].key(), ("native", "torch"))


def test_verdicts_outlive_the_process(cache: Path) -> None:
    assert verdict() == {} and not cache.exists()
    verdicts.keep(known_key(), {"native": 0.5, "torch": 0.25})
    assert [path.name for path in cache.parent.iterdir()] == [FILE]
    verdicts.forget()
    assert verdict() == {"native": 0.5, "torch": 0.25}
    choice = choose("norm", "auto", NEEDS["norm"], racing("norm", NEEDS["norm"]))
    if (
        len(choice.how.split(",")) == 2
    ):  # where the compiled kernels run, so that these two are the candidates
        assert choice.describe() == "torch (auto: 250 ms, native 500 ms)"


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "[" * 200_000, " " * 5_000_000 + '{"format": 1, "verdicts": {}}',
        '{"format": 1}', '{"format": 99, "verdicts": {}}', '{"format": 1, "verdicts": []}',
        *(json.dumps({"format": 1, "verdicts": {"KEY": value}})
          for value in ({}, 1, {"rm -rf": 1.0}, {"torch": "1"}, {"torch": -1.0}, {"torch": float("nan")})),
    ],
    ids=lambda content: content[:40],
)  # fmt: skip
def test_a_file_that_cannot_be_believed_is_written_anew(content: str, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text(content.replace("KEY", known_key()))
    assert verdict() == {}
    verdicts.keep(known_key(), {"native": 0.5, "torch": 0.25})
    verdicts.forget()
    assert verdict() == {"native": 0.5, "torch": 0.25}


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(cache: Path) -> None:
    cache.mkdir(parents=True)  # a folder in its place: nothing can be renamed to it
    verdicts.keep(known_key(), {"native": 0.5, "torch": 0.25})
    assert [path.name for path in cache.parent.iterdir()] == [FILE]


@pytest.mark.parametrize("place", ["0", "", "/proc/nowhere"])
def test_without_a_file_verdicts_are_of_this_process(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLACE, place)
    verdicts.keep(known_key(), {"native": 0.5, "torch": 0.25})
    assert verdict() == {"native": 0.5, "torch": 0.25}
    verdicts.forget()
    assert verdict() == {}


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PLACE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert verdicts._folder() == Path("/xdg/nemo_pi")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert verdicts._folder() == Path("/home/someone/.cache/nemo_pi")

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert verdicts._folder() is None


def test_a_verdict_is_of_one_kind_of_processor_and_work() -> None:
    key = known_key()
    assert verdicts.processor() in key and f"torch {torch.__version__}" in key and "1 threads" in key
    # Kernels that were compiled anew may be faster or slower.
    assert native.build() in key and native.build() != ""
    assert key != verdicts.key("norm", Needs(width=48, tokens=10).key(), ("native", "torch"))
    assert key != verdicts.key("norm", NEEDS["norm"].key(), ("torch",))


def test_a_disturbed_verdict_is_not_kept_on_disk(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process goes on with it, so that all its choices agree; the next one races again."""
    counts = iter([0.0, 0.0, 5.0, 5.0 + 1e-9])
    monkeypatch.setattr("nemo_pi.kernels.race.waiting", lambda: next(counts))
    measured = racing("norm", NEEDS["norm"])
    assert measured is not None
    measured(candidates("norm"))
    assert cache.exists()
    cache.unlink()
    verdicts.forget()
    counts = iter([0.0, 5.0])
    disturbed = measured(candidates("norm"))
    assert not cache.exists()
    assert measured(candidates("norm")) == disturbed


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel does not count waiting")
def test_a_busy_neighbour_is_seen() -> None:
    """Two programs on one processor: each waits about half of the time."""
    allowed = os.sched_getaffinity(0)
    processor = min(allowed)
    spin = f"import os; os.sched_setaffinity(0, {{{processor}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", spin]) as other:
        try:
            os.sched_setaffinity(0, {processor})
            time.sleep(0.3)  # the other one has begun
            waited, started = waiting(), time.perf_counter()
            while time.perf_counter() - started < 0.5:
                pass
            assert waiting() - waited > 0.05
        finally:
            os.sched_setaffinity(0, allowed)
            other.kill()
