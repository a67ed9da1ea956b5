"""Families of other packages: registered by an entry point, imported when somebody asks for the name.

What a checkpoint says can select a registered name and nothing else: it never names a module or a class.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from nemo_pi.errors import CheckpointError
from nemo_pi.families.base import Family

GROUP = "nemo_pi.families"
"""The entry point group: a family's name and its class."""


def plugged_in() -> tuple[str, ...]:
    """Names that installed packages register; nothing is imported for it."""
    return tuple(dict.fromkeys(entry.name for entry in entry_points(group=GROUP)))


def load(name: str) -> Family:
    """The family that a package registers by this name.

    Raises:
        CheckpointError: the package is broken, or two of them claim the name.
    """
    entries = list({entry.value: entry for entry in entry_points(group=GROUP, name=name)}.values())
    if len(entries) > 1:
        raise _broken(entries[-1], "a name of its own", f"one that {entries[0].value} has already")
    required = f"a subclass of Family whose name is {name!r}"
    try:
        family = entries[0].load()()
    except Exception as error:  # whatever a foreign module raises while it is imported
        raise _broken(entries[0], required, f"{type(error).__name__}: {error}") from error
    if not isinstance(family, Family) or family.name != name:
        raise _broken(entries[0], required, repr(family))
    return family


def _broken(entry: EntryPoint, required: str, given: str) -> CheckpointError:
    package = entry.dist.name if entry.dist else "its package"
    return CheckpointError(
        f"family {entry.name}",
        required=f"{required} ({entry.value}, registered by {package})",
        given=given,
        mend=f"correct or uninstall {package}",
    )
