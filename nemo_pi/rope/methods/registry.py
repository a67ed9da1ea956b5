"""The scaling methods by name: ours, and those that installed packages register.

A package registers a method of its own under the entry point group `nemo_pi.methods`, by the method's name.
It is imported when somebody asks for that name, never before. What a checkpoint says can select a
registered name and nothing else: it never names a module or a class.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from nemo_pi.errors import ConfigError
from nemo_pi.rope.methods.abf import Abf
from nemo_pi.rope.methods.base import ScalingMethod
from nemo_pi.rope.methods.dynamic import Dynamic
from nemo_pi.rope.methods.linear import Linear
from nemo_pi.rope.methods.llama3 import Llama3
from nemo_pi.rope.methods.longrope import LongRope
from nemo_pi.rope.methods.ntk import Ntk
from nemo_pi.rope.methods.plain import Plain
from nemo_pi.rope.methods.proportional import Proportional
from nemo_pi.rope.methods.yarn import Yarn
from nemo_pi.rope.validation import did_you_mean

GROUP = "nemo_pi.methods"
"""The entry point group of methods from other packages."""

BUILT_IN: dict[str, type[ScalingMethod]] = {
    method.name: method for method in (Plain, Linear, Ntk, Dynamic, Yarn, Llama3, LongRope, Abf, Proportional)
}
"""Our own methods by name."""

UNSCALED = Plain.name
"""The method of a model that has not been extended."""
INTERPOLATION = Linear.name
"""Position Interpolation, the method where none is asked for."""

_LOADED: dict[str, type[ScalingMethod]] = {}


def method_named(name: Any, package: str | None = None) -> type[ScalingMethod]:
    """The method of this name.

    Args:
        name: as the YAML or a checkpoint writes it.
        package: who registered it when the checkpoint was written, for the message where it is missing.

    Raises:
        ConfigError: nobody has registered the name, or the package that has is broken.
    """
    if isinstance(name, str) and name in BUILT_IN:
        return BUILT_IN[name]
    if isinstance(name, str) and name in _LOADED:
        return _LOADED[name]
    registered = plug_ins()
    if isinstance(name, str) and name in registered:
        _LOADED[name] = _load(registered[name])
        return _LOADED[name]
    names = [*BUILT_IN, *registered]
    raise ConfigError(
        "method",
        required="one of " + ", ".join(names),
        given=repr(name),
        mend=how_to_get(package) if package else did_you_mean(name, names, _also_called()),
    )


def check_available(name: Any) -> type[ScalingMethod]:
    """The method that a user's YAML asks for; unlike method_named, nothing else may claim one of our names.

    Raises:
        ConfigError: as method_named, or a package registers a name that is taken.
    """
    plug_ins()
    return method_named(name)


def plug_ins() -> dict[str, EntryPoint]:
    """Methods that installed packages register, by name; none is imported for it.

    Raises:
        ConfigError: a package registers a name that is ours or another package's.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        taken_by = "nemo_pi" if entry.name in BUILT_IN else None
        if entry.name in found and found[entry.name].value != entry.value:
            taken_by = package_of(found[entry.name])
        if taken_by is not None:
            raise ConfigError(
                "method",
                required=f"a name of its own for each entry point of {GROUP}",
                given=f"{entry.name!r} from {package_of(entry)}, which {taken_by} has already",
                mend=f"rename it in {package_of(entry)}, or uninstall that package",
            )
        found[entry.name] = entry
    return found


def provider_of(name: str) -> str | None:
    """The installed package, with its version, that registers this method; None for our own."""
    entry = None if name in BUILT_IN else plug_ins().get(name)
    return None if entry is None else package_of(entry)


def package_of(entry: EntryPoint) -> str:
    """Name and version of the distribution behind an entry point."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"


def how_to_get(package: object) -> str:
    """The mend for a method that a checkpoint needs and nobody has registered here."""
    return f"install the package that registers it under the entry point group {GROUP} ({package!r} did)"


def _load(entry: EntryPoint) -> type[ScalingMethod]:
    required = f"a subclass of ScalingMethod whose name is {entry.name!r}"
    try:
        loaded = entry.load()
    except Exception as error:  # whatever a foreign module raises while it is imported
        raise _broken(entry, required, f"{type(error).__name__}: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, ScalingMethod)):
        raise _broken(entry, required, repr(loaded))
    name = getattr(loaded, "name", None)
    if name != entry.name:
        raise _broken(entry, required, f"{loaded.__name__} with the name {name!r}")
    return loaded


def broken(method: type[ScalingMethod], required: str, given: str) -> ConfigError:
    """The error for a method of another package that does not keep what a method promises."""
    entry = plug_ins()[method.name]
    return _broken(entry, required, given)


def _broken(entry: EntryPoint, required: str, given: str) -> ConfigError:
    return ConfigError(
        "method",
        required=f"{required} ({entry.value}, registered by {package_of(entry)})",
        given=given,
        mend=f"correct or uninstall {package_of(entry)}",
    )


def _also_called() -> dict[str, str]:
    return {other: method.name for method in BUILT_IN.values() for other in method.also_called}
