"""Results of every task as they might have been measured, and the names that are hardest to lay out."""

from __future__ import annotations

import math

from nemo_pi.evaluation.passkey_result import PasskeyGrid, PasskeyResult
from nemo_pi.evaluation.perplexity import PerplexityResult
from nemo_pi.evaluation.results import ModelResults
from nemo_pi.evaluation.ruler.result import RulerResult
from nemo_pi.evaluation.tasks.base import TaskResult
from nemo_pi.evaluation.tasks.lm_eval import LmEvalResult
from nemo_pi.evaluation.tasks.longppl import LongPplResult
from nemo_pi.evaluation.tasks.position_loss import PositionLossResult

WINDOW, TARGET = 512, 4096
LENGTHS = (512, 1024, 1536, 2048, 2560, 3072, 3584, 4096)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
HOSTILE = '<script>document.title="run"</script> & "quoted" <img src=x onerror=alert(1)>'
LONG = "a-checkpoint-with-a-very-long-name-that-nobody-could-break/step_00001000-of-the-second-stage"


def perplexity(at: tuple[float, float, float, float], summary: str = "sliding window") -> PerplexityResult:
    protocol = {
        "name": "sliding window",
        "summary": summary,
        "stride_tokens": 256,
        "num_scored_tokens": 18_428,
    }
    return PerplexityResult(protocol, dict(zip((512, 1024, 2048, 4096), at, strict=True)))


def grid(reach: int, rate: float, lengths: tuple[int, ...] = LENGTHS, trials: int = 10) -> PasskeyResult:
    """Everything is found within the window, `rate` of it up to `reach`, nothing beyond."""

    def counts(length: int) -> tuple[int, ...]:
        share = 1.0 if length <= WINDOW else rate if length <= reach else 0.0
        return tuple(round(trials * share) for _ in DEPTHS)

    protocol = {"name": "passkey", "summary": "five random digits", "lengths": list(lengths), "seed": 1234}
    return PasskeyResult(protocol, PasskeyGrid(lengths, DEPTHS, trials, tuple(map(counts, lengths))))


def ruler(score: float, fall: float) -> RulerResult:
    """`score` at the original window, `fall` less each time the length doubles."""
    names = ("niah_single_1", "niah_multikey_2", "vt", "cwe", "fwe")
    scores = {
        length: {name: max(0.0, score - fall * step - 0.03 * i) for i, name in enumerate(names)}
        for step, length in enumerate((512, 1024, 2048, 4096))
    }
    return RulerResult({"name": "ruler", "summary": "RULER's prompts", "samples": 50}, scores, 50, WINDOW)


def tasks(quality: float, reach: int) -> dict[str, TaskResult]:
    """Results of every task: a model that is `quality` (1 is best) and reads up to `reach` tokens."""
    base = 30.0 / quality
    values = [base if length <= reach else 70.0 + length / 100 for length in (512, 1024, 2048, 4096)]
    ends = range(128, TARGET + 1, 128)
    return {
        "perplexity": perplexity((values[0], values[1], values[2], values[3])),
        "short": PerplexityResult({"name": "short", "summary": "at the original window"}, {WINDOW: base}),
        "position_loss": PositionLossResult(
            {"name": "loss by position", "summary": "stretches of 128 tokens", "stretch": 128},
            {end: math.log(base) + 0.3 / (1 + end / 256) + (0.9 if end > reach else 0.0) for end in ends},
        ),
        "longppl": LongPplResult(
            {"name": "longppl", "summary": "tokens that need long context", "alpha": 2.0, "beta": 2.0},
            2.5,
            3.1,
            round(reach / 8),
            18_428,
        ),
        "passkey": grid(reach, quality),
        "needle": grid(reach, quality, LENGTHS[::2], 5),
        "ruler": ruler(quality, 0.02 if reach >= TARGET else 0.3),
        "lm_eval": LmEvalResult(
            {"name": "lm-eval", "summary": "lm-eval's tasks lambada", "tasks": ["lambada"]},
            {"lambada": {"acc,none": 0.6 * quality, "acc_stderr,none": 0.01, "perplexity,none": 30.0}},
        ),
    }


def origin(name: str, steps: int) -> dict[str, dict[str, str]]:
    return {
        "Model": {"folder": f"results/{name}", "method": name, "steps": f"{steps:,}"},
        "Plan": {"Perplexity": "73,728 tokens read, 18 batches; took 12.3 s"},
        "Environment": {
            "date": "28 November 2026, 12:00 UTC",
            "processor": "AMD EPYC (Zen 4), 2 threads",
        },
    }


def two_models() -> list[ModelResults]:
    """Before and after."""
    return [
        ModelResults("before", WINDOW, TARGET, tasks(1.0, WINDOW), origin("none", 0)),
        ModelResults("after", WINDOW, TARGET, tasks(0.985, TARGET), origin("yarn", 200)),
    ]


def many_models() -> list[ModelResults]:
    """As many as there are colours, with names that are hard to lay out; one has hardly been measured, and
    one has perplexities that are no numbers."""
    names = (
        "base model",
        "Position Interpolation, untrained",
        "Position Interpolation, 200 steps",
        HOSTILE,
        LONG,
        "数字を探す長い名前のモデル",
        "YaRN | 200",
        "diverged",
    )
    reaches = (512, 0, 4096, 2048, 4096, 4096, 1024, 0)
    models = [
        ModelResults(name, WINDOW, TARGET, tasks(1.0 - 0.02 * i, reach), origin(f"method {i}", 100 * i))
        for i, (name, reach) in enumerate(zip(names, reaches, strict=True))
    ]
    models[3] = ModelResults(HOSTILE, WINDOW, TARGET, {"passkey": grid(2048, 0.9)})
    models[7] = ModelResults(
        "diverged", WINDOW, TARGET, {"perplexity": perplexity((math.inf, math.nan, 9e5, math.inf))}
    )
    return models
