"""What was found, as a table, one verdict, and notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Found = dict[str, Any]
FP32 = 2e-4
"""By how much losses of one model in fp32 may differ between two devices, of their size."""
BF16 = 2e-2
"""The same between two kernels in bf16."""
MEMORY = 0.15
"""How far the plan's estimate may be off."""


def rows(found: Sequence[Found]) -> list[dict[str, Any]]:
    """A line for each case."""
    return [
        {
            "part": one["part"],
            "case": one["case"],
            "runs": "yes" if one["ok"] else "no",
            "last loss": f"{one['losses'][-1]:.5f}" if one.get("losses") else "",
            "s/step": f"{one['seconds']:.3f}" if "seconds" in one else "",
            "peak GiB": _gib(one, "peak_mib"),
            "plan GiB": _gib(one, "estimate_mib"),
            "why not": one.get("reason", "")[:160],
        }
        for one in found
    ]


def verdict(found: Sequence[Found]) -> str:
    """What runs, whether it computes the same, and how good the plan's estimates are, in one line."""
    runs = sum(one["ok"] for one in found)
    said = [f"{runs} of {len(found)} cases run"]
    parity = _parity(found)
    if parity is not None:
        said.append(parity)
    differing = [one["case"] for one in _differing(found)]
    said.append(f"losses differ with {', '.join(differing)}" if differing else "kernels agree on the loss")
    stacks = [one for one in found if one["part"].startswith("stack") and one["ok"]]
    if stacks:
        near = sum(abs(one["estimate_mib"] / one["peak_mib"] - 1) <= MEMORY for one in stacks)
        said.append(f"{near} of {len(stacks)} memory estimates are within {MEMORY:.0%} of the peak")
    return "; ".join(said) + "."


def notes(found: Sequence[Found]) -> list[str]:
    """What does not fit into the table."""
    races = [one for one in found if one.get("verdict")]
    return [
        "The plan counts tensors of a GPU; on a CPU the peak is growth of the process, and no measure of it.",
        *(f"rotary: {one['verdict']}" for one in races),
    ]


def _parity(found: Sequence[Found]) -> str | None:
    """Losses and greedy tokens of this device beside the CPU's; None where one of them is missing."""
    here, there = (
        {one["case"]: one for one in found if one["part"] == part and one["ok"]}
        for part in ("parity", "parity-cpu")
    )
    both = here.keys() & there.keys()
    if not both:
        return None
    pairs = [
        pair
        for case in both
        for pair in zip(here[case].get("losses", []), there[case].get("losses", []), strict=True)
    ]
    apart = max((abs(a / b - 1) for a, b in pairs), default=0.0)
    tokens = all(here[case].get("tokens") == there[case].get("tokens") for case in both)
    same = "the same greedy tokens" if tokens else "OTHER greedy tokens"
    within = "within" if apart <= FP32 else "NOT within"
    return f"losses in fp32 {within} {FP32:g} of the CPU's ({apart:.1e}), {same}"


def _differing(found: Sequence[Found]) -> list[Found]:
    """Cases of the first part whose loss is not that of `auto`; packed documents have one of their own."""
    tried = [one for one in found if one["part"] == "backends" and one["ok"] and one.get("losses")]
    if not tried:
        return []
    first = tried[0]["losses"][0]
    return [
        one for one in tried if one["case"] != "packed documents" and abs(one["losses"][0] / first - 1) > BF16
    ]


def _gib(one: Found, key: str) -> str:
    return f"{one[key] / 1024:.2f}" if key in one else ""
