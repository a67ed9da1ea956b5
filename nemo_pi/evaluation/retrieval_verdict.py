"""What retrieval over length and depth answers: whether something is found wherever it stands."""

from __future__ import annotations

from collections.abc import Sequence

from nemo_pi.evaluation.charts import HeatMap, Panel
from nemo_pi.evaluation.passkey_result import K_MAX_SHARE, PasskeyGrid, PasskeyResult
from nemo_pi.evaluation.tasks.base import Measured
from nemo_pi.evaluation.verdicts import Finding, Verdict
from nemo_pi.units import plural

EVERYWHERE = 0.8
"""Share of the trials beyond the original window that has to succeed at every depth."""


def retrieves(
    models: Sequence[Measured[PasskeyResult]], *, question: str, thing: str, title: str, asked: str
) -> Verdict:
    """Whether each model finds what is hidden up to the target window, from any depth.

    Args:
        models: of the report.
        question: what it answers.
        thing: what is hidden, in the plural.
        title: of the chart.
        asked: what a trial is.
    """
    rule = (
        f"Yes: k_max (the longest length up to which at least {K_MAX_SHARE:.0%} of the trials at the "
        f"shallowest depth succeed) is the target window, and beyond the original window at least "
        f"{EVERYWHERE:.0%} of the {thing} are found at every depth. Partly: k_max lies beyond the original "
        f"window, or {K_MAX_SHARE:.0%} of all trials beyond it succeed. No: neither."
    )
    findings = tuple(_finding(model, model.result, thing) if model.result else None for model in models)
    results = [(model, model.result) for model in models if model.result]
    counts = sorted({result.grid.num_trials for _, result in results})
    trials = " or ".join(plural(count, "trial") for count in counts)
    chart = HeatMap(
        title,
        f"{asked}; {trials} in each cell, the share of them that succeeded in per cent. Depth 0% is the "
        "beginning of the text. The dashed line is the end of the original window.",
        "length (tokens)",
        "depth",
        tuple(_panel(model, result) for model, result in results),
    )
    return Verdict(question, rule, findings, (chart,))


def _finding(model: Measured[PasskeyResult], result: PasskeyResult, thing: str) -> Finding:
    grid, window, names = result.grid, model.original_window, _depths(result.grid)
    beyond = [i for i, length in enumerate(grid.lengths) if length > window]
    k_max = f"k_max {result.k_max:,}"
    if not beyond:
        return Finding("unknown", f"{k_max}; no length beyond the original window was tried", k_max)
    by_depth = [
        sum(grid.successes[i][depth] for i in beyond) / (len(beyond) * grid.num_trials)
        for depth in range(len(names))
    ]
    every = sum(by_depth) / len(by_depth)
    worst = min(range(len(by_depth)), key=lambda depth: by_depth[depth])
    text = (
        f"k_max {result.k_max:,} of {grid.lengths[-1]:,} tokens; beyond {window:,} tokens {every:.0%} of the "
        f"{thing} found, at the worst depth ({names[worst]}) {by_depth[worst]:.0%}"
    )
    # The longest length that was tried may lie a few tokens short of the window.
    reaches = result.k_max == grid.lengths[-1] and grid.lengths[-1] >= 0.97 * model.target_window
    if reaches and by_depth[worst] >= EVERYWHERE:
        return Finding("yes", text, k_max)
    return Finding("partly" if result.k_max > window or every >= K_MAX_SHARE else "no", text, k_max)


def _depths(grid: PasskeyGrid) -> tuple[str, ...]:
    """What the depths are called; under some protocols each trial draws its own."""
    return tuple(f"{depth:.0%}" for depth in grid.depths) or ("any",)


def _panel(model: Measured[PasskeyResult], result: PasskeyResult) -> Panel:
    grid = result.grid
    k_max = result.k_max
    return Panel(
        model.model,
        f"k_max {k_max:,} tokens" if k_max else "k_max 0: none retrieved",
        _depths(grid),
        tuple(f"{length:,}" for length in grid.lengths),
        tuple(
            tuple(counts[depth] / grid.num_trials for counts in grid.successes)
            for depth in range(len(_depths(grid)))
        ),
        sum(length <= model.original_window for length in grid.lengths),
    )
