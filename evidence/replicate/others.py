"""PoSE (arXiv 2309.10400), YaRN (2309.00071), NTK-aware scaling; and the families they name."""

from __future__ import annotations

import math

from demo.methods import TARGET, WINDOW
from evidence.replicate.lab import BASE, FULL, NTK, PI, POSE, RANDOM, YARN, Lab
from evidence.replicate.row import InSmall, Row, Values

MAKE = (
    "`python examples/extend_context.py model=llama-7b pose=paper`, 1,000 steps; then `examples/evaluate.py`"
)


def _samplers(lab: Lab) -> Values:
    def worst(title: str) -> float:
        full = lab.trained(FULL)
        ratios = [lab.perplexity(lab.trained(title), n) / lab.perplexity(full, n) for n in (WINDOW, TARGET)]
        return max(ratios)

    return {"PoSE ÷ full length": worst(POSE), "randomised ÷ full length": worst(RANDOM)}


def _flat(lab: Lab) -> Values:
    costs = lab.noted(lab.costs)
    near, far, full = (costs[name] for name in ("PoSE to 4,096", "PoSE to 32,768", "full length, 4,096"))
    return {
        "seconds to 32,768 ÷ to 4,096": far["seconds"] / near["seconds"],
        "memory to 32,768 ÷ to 4,096": far["bytes"] / near["bytes"],
        "seconds a token, full ÷ PoSE": (full["seconds"] / full["tokens"])
        / (near["seconds"] / near["tokens"]),
    }


def _compatible(lab: Lab) -> Values:
    return {title: lab.found(lab.trained(title)) for title in (PI, NTK, YARN)}


def _families(lab: Lab) -> Values:
    losses = lab.noted(lab.families)
    return {name: later - first for name, (first, later) in losses.items()}


def _untrained(lab: Lab) -> Values:
    return {title: lab.perplexity(lab.untrained(title), TARGET) for title in (PI, NTK, YARN)}


def _free(lab: Lab) -> Values:
    base = lab.perplexity(BASE, WINDOW)
    return {title: lab.perplexity(lab.untrained(title), WINDOW) / base for title in (PI, NTK, YARN)}


ROWS = (
    Row(
        "pose",
        "PoSE",
        "short samples with skipped positions reach full length's perplexity; randomised positions do not",
        "GovReport, 2k to 16k: full 4.87 to 4.59, PoSE 4.84 to 4.60, randomised 11.63 to 15.16",
        _samplers,
        lambda v: v["PoSE ÷ full length"] <= 1.03 and v["randomised ÷ full length"] >= 1.3,
        "PoSE within 3% of full length at the window and at the target; randomised at least 30% above",
        f"{MAKE}; the same with `pose=random`, and without `pose`",
    ),
    Row(
        "flat",
        "PoSE, cost",
        "time and memory of a step do not depend on the target window",
        "16k: 3.8 h and 14.5 GB by PoSE, 13.7 h and 31 GB at full length",
        _flat,
        lambda v: (
            v["seconds to 32,768 ÷ to 4,096"] <= 1.15
            and v["memory to 32,768 ÷ to 4,096"] <= 1.05
            and v["seconds a token, full ÷ PoSE"] > 1
        ),
        "eight times the target: time within 15%, memory within 5%; a token of full length costs more",
        f"{MAKE}: `train_step_seconds` of TensorBoard at two targets",
    ),
    Row(
        "compatible",
        "PoSE, other scalings",
        "it works with linear, NTK-aware and YaRN scaling",
        "perplexities of all three stay level up to the target, YaRN's best",
        _compatible,
        lambda v: min(v.values()) >= 0.8,
        "each finds at least 80% of the pass keys beyond the window",
        f"{MAKE}; the same with `rope=ntk`, `rope=yarn`",
        InSmall(
            lambda v: v[NTK] >= 0.8 and v[YARN] >= 0.8 and v[PI] >= 0.5,
            "interpolation blunts attention to neighbours most in a small model, and takes more steps",
        ),
    ),
    Row(
        "families",
        "PoSE, other models",
        "it works with the families of RoPE models it names: LLaMA, GPT-J",
        "these and Baichuan, which `tests/unit/families/test_parity.py` covers here",
        _families,
        lambda v: len(v) == 2 and all(math.isfinite(change) and change < 0 for change in v.values()),
        "a model of each family learns under PoSE with linear scaling: its loss falls within 20 steps",
        "`model=auto restore_from_path=FOLDER pose=paper` on each family's checkpoint",
    ),
    Row(
        "untrained",
        "YaRN",
        "without training, YaRN reads the target better than NTK-aware scaling, and that better than PI",
        "a tenth of the tokens that methods before it needed",
        _untrained,
        lambda v: v[YARN] < v[NTK] < v[PI],
        "perplexity at the target in this order",
        "`examples/advise.py CHECKPOINT --documents heldout.jsonl --target-window 32768`",
    ),
    Row(
        "free",
        "NTK-aware, YaRN",
        "neither costs much within the window, without any training; PI does",
        "NTK-aware scaling: “minimal perplexity degradation”",
        _free,
        lambda v: v[NTK] <= 1.1 and v[YARN] <= 1.1 and v[PI] > max(v[NTK], v[YARN]),
        "perplexity at the original window at most 10% above the base's, and less than PI's",
        "`examples/advise.py CHECKPOINT --documents heldout.jsonl --target-window 32768`: its column Δ",
    ),
)
