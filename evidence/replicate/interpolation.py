"""Position Interpolation (arXiv 2306.15595): tables 1 to 5, figure 2 and theorem 2.1."""

from __future__ import annotations

import itertools

from demo.methods import TARGET, WINDOW
from evidence.replicate.curves import fitted_curve
from evidence.replicate.lab import BASE, DIRECT, PI, Lab
from evidence.replicate.row import InSmall, Row, Values
from nemo_pi.rope.bound import corrected_bound, extrapolation_sum, printed_bound, supremum

LENGTHS = (512, 1024, 2048, 4096)
MAKE = "`python examples/extend_context.py model=llama-7b`, 1,000 steps; then `examples/evaluate.py`"


def _by_length(lab: Lab) -> Values:
    return {f"at {n:,}": lab.perplexity(lab.trained(PI), n) for n in LENGTHS}


def _falls(values: Values) -> bool:
    row = list(values.values())
    # A thousandth of slack: the perplexities are of some ten thousand tokens.
    return all(later <= 1.001 * earlier for earlier, later in itertools.pairwise(row)) and row[-1] < row[0]


def _base(lab: Lab) -> Values:
    return {"within": lab.perplexity(BASE, WINDOW), "at twice the window": lab.perplexity(BASE, 2 * WINDOW)}


def _steps(lab: Lab) -> Values:
    few, many = lab.sweep
    return {
        "0 steps": lab.perplexity(lab.untrained(PI), TARGET),
        f"{few} steps": lab.perplexity(lab.trained(PI, few), TARGET),
        "enough": lab.perplexity(lab.trained(PI), TARGET),
        f"{many} steps": lab.perplexity(lab.trained(PI, many), TARGET),
    }


def _steps_hold(values: Values) -> bool:
    untrained, _, enough, many = values.values()
    return untrained - enough >= 0.95 * (untrained - many)


def _windows(lab: Lab) -> Values:
    return {"PI": lab.k_max(lab.trained(PI)), "direct": lab.k_max(lab.trained(DIRECT))}


def _short(lab: Lab) -> Values:
    base = lab.perplexity(BASE, WINDOW)
    return {
        "PI ÷ base": lab.perplexity(lab.trained(PI), WINDOW) / base,
        "direct ÷ base": lab.perplexity(lab.trained(DIRECT), WINDOW) / base,
    }


def _bound(lab: Lab) -> Values:
    return {
        "printed": printed_bound(128, 1e4),
        "reached": supremum(128, 1e4),
        "corrected": corrected_bound(128, 1e4),
        "ratio as printed": 2 * extrapolation_sum(128, 1e4, 4096 - 1) / printed_bound(128, 1e4),
    }


def _curve(lab: Lab) -> Values:
    curve = fitted_curve()
    return {"within": curve.inside, "extrapolated": curve.beyond, "interpolated": curve.between}


ROWS = (
    Row(
        "falls",
        "PI, tables 1 and 2",
        "perplexity falls with context over the whole extended window",
        "7B to 32k, PG-19: 7.23, 7.04, 6.91, 6.80, 6.77 at 2k to 32k",
        _by_length,
        _falls,
        "none above the one before it, the last below the first",
        MAKE,
        InSmall(
            lambda v: v["at 4,096"] <= 1.02 * v["at 512"],
            "a model of four layers hardly reads further back than a page; it stays flat within 2%",
        ),
    ),
    Row(
        "base",
        "PI, table 1",
        "the original model fails beyond its window",
        "7B: 7.20 at 2k, above 1,000 at 4k",
        _base,
        lambda v: v["at twice the window"] > 1.5 * v["within"],
        "perplexity at twice the window above 1.5 times that within",
        "`examples/evaluate.py BASE documents=heldout.jsonl target_window=32768`",
    ),
    Row(
        "steps",
        "PI, table 3",
        "200 steps are enough",
        "7B to 8k: 16.10, 7.12, 7.10, 7.02, 6.99, 6.95 at 0, 200, … 1,000 steps",
        _steps,
        _steps_hold,
        "of what half as many steps again gain in perplexity, at least 95% is gained by then",
        f"{MAKE}, on every checkpoint (`exp_manager.checkpoint_callback_params.save_top_k=-1`)",
    ),
    Row(
        "direct",
        "PI, table 4",
        "direct fine-tuning hardly gains window",
        "k_max 2,560 of 8,192 after 10,000 steps, from 2,048",
        _windows,
        lambda v: v["direct"] <= WINDOW + (TARGET - WINDOW) / 8,
        "k_max has come at most an eighth of the way to the target",
        f"{MAKE}, with `rope=none model.pos_scaling_factor=1.0` and 10,000 steps",
        InSmall(
            lambda v: v["direct"] < v["PI"],
            "a base model that has read few positions, trained on samples that ask for pass keys, learns new "
            "ones soon; it still does not reach PI's window",
        ),
    ),
    Row(
        "passkey",
        "PI, table 4",
        "pass keys are found over the whole extended window by step 200",
        "k_max 8,192, 16,384 and 32,768 for those targets",
        lambda lab: {"k_max": lab.k_max(lab.trained(PI)), "found": lab.found(lab.trained(PI))},
        lambda v: v["k_max"] == TARGET,
        "k_max is the target window",
        f"{MAKE}, with `'tasks=[passkey]'`",
        InSmall(
            lambda v: v["found"] >= 0.5 and v["k_max"] >= 2 * WINDOW,
            "keys at the very beginning of the longest documents take more steps; most others are found",
        ),
    ),
    Row(
        "short",
        "PI, tables 1 and 5",
        "quality within the original window is kept",
        "7B on PG-19 at 2k: 7.20 before, 7.13 extended to 8k, 7.23 to 32k; benchmarks lose little",
        _short,
        lambda v: v["PI ÷ base"] <= 1.03,
        "perplexity at the original window at most 3% above the base model's",
        "`examples/evaluate.py BASE EXTENDED documents=FILE 'tasks=[short]' gate.short_perplexity=1.03`",
        InSmall(
            lambda v: v["PI ÷ base"] <= 1.05 * v["direct ÷ base"],
            "most of it is what a training of minutes, three of four samples asking for pass keys, costs "
            "any model: direct fine-tuning, which leaves those positions alone, loses as much within 5% "
            "([pose.md](pose.md#what-is-kept-within-the-old-window))",
        ),
    ),
    Row(
        "bound",
        "PI, theorem 2.1",
        "interpolated scores stay within a bound hundreds of times below that of extrapolation",
        "|error| ≤ 0.434·max|h| for d = 128, b = 10,000; about 600 times smaller",
        _bound,
        lambda v: v["reached"] <= v["printed"] and v["ratio as printed"] >= 600,
        "the largest error there is stays within the bound as printed; the ratio is at least 600",
        "the same numbers: they depend on d and b alone",
        InSmall(
            lambda v: v["printed"] < v["reached"] <= v["corrected"] and v["ratio as printed"] >= 600,
            "the printed constant is too small at any size; with Σθ_j² in its place the bound holds "
            "([methods.md](methods.md#theorem-21-and-where-it-does-not-hold))",
        ),
    ),
    Row(
        "figure2",
        "PI, figure 2",
        "a score fitted within the window explodes beyond it, and is tame between trained positions",
        "|a(s)| within 1 on 0 … 2,048, above 8,000 beyond; smooth in between",
        _curve,
        lambda v: v["extrapolated"] > 100 * v["within"] and v["interpolated"] < 2 * v["within"],
        "beyond the window above 100 times the largest within, between positions below twice",
        "the same: d = 128, b = 10,000, 2,048 positions",
    ),
)
