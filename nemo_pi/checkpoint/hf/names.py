"""Names of tensors in a message: those that differ in their layer alone are one."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

_MOST = 12
_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


Sizes = tuple[int, ...]


def mismatches(
    stored: Mapping[str, Sizes], expected: Mapping[str, Sizes], also_allowed: Collection[str]
) -> list[tuple[str, str]]:
    """What is missing, unexpected or of another shape, as (required, given); empty where all is well.

    Args:
        stored: name → shape of what is there.
        expected: name → shape of what must be.
        also_allowed: names that may be there as well.
    """
    found = []
    if missing := [name for name in expected if name not in stored]:
        kind = "tensor" if len(missing) == 1 else "tensors"
        found.append((f"{kind} {in_groups(missing)}", f"none ({len(missing)} missing)"))
    if surplus := [name for name in stored if name not in expected and name not in also_allowed]:
        given = f"{in_groups(surplus)} ({len(surplus)} unexpected)"
        found.append(("only tensors of this architecture", given))
    misshaped: dict[tuple[Sizes, Sizes], list[str]] = {}
    for name, sizes in expected.items():
        if stored.get(name, sizes) != sizes:
            misshaped.setdefault((sizes, stored[name]), []).append(name)
    for (right, wrong), names in misshaped.items():
        found.append((f"{in_groups(names)} of shape {list(right)}", f"shape {list(wrong)}"))
    return found


def in_groups(names: Iterable[str]) -> str:
    """Names one behind the other; `layers.{0-31}.x` stands for the same one of 32 layers.

    At most twelve groups are written out.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_LAYER.sub("{}", name, count=1), []).append(name)
    written = [same[0] if len(same) == 1 else _one(pattern, same) for pattern, same in groups.items()]
    more = len(written) - _MOST
    return ", ".join(written[:_MOST]) + (f" and {more} more" if more > 0 else "")


def _one(pattern: str, names: list[str]) -> str:
    numbers = sorted({int(found[0]) for name in names if (found := _LAYER.search(name))})
    return pattern.replace("{}", f"{{{_ranges(numbers)}}}", 1)


def _ranges(numbers: list[int]) -> str:
    """0, 1, 2, 5 as `0-2,5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
