"""The scaling methods by name: ours, and those that installed packages register.

A package registers a method of its own under the entry point group `nemo_pi.methods`, by the method's name;
nemo_pi/plug_ins.py says what becomes of it.
"""

from __future__ import annotations

from typing import Any

from nemo_pi.errors import ConfigError
from nemo_pi.plug_ins import PlugIns
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

BUILT_IN: dict[str, type[ScalingMethod]] = {
    method.name: method for method in (Plain, Linear, Ntk, Dynamic, Yarn, Llama3, LongRope, Abf, Proportional)
}
"""Our own methods by name."""

UNSCALED = Plain.name
"""The method of a model that has not been extended."""
INTERPOLATION = Linear.name
"""Position Interpolation, the method where none is asked for."""

PLUG_INS = PlugIns("nemo_pi.methods", kind="method", expected=ScalingMethod, built_in=BUILT_IN)
"""Methods of other packages."""


def method_named(name: Any, package: str | None = None) -> type[ScalingMethod]:
    """The method of this name.

    Args:
        name: as the YAML or a checkpoint writes it.
        package: who registered it when the checkpoint was written, for the message where it is missing.

    Raises:
        ConfigError: nobody has registered the name, or the package that has is broken.
    """
    if isinstance(name, str):
        found = BUILT_IN.get(name) or PLUG_INS.class_named(name, "method")
        if found is not None:
            return found
    names = [*BUILT_IN, *PLUG_INS.names()]
    raise ConfigError(
        "method",
        required="one of " + ", ".join(names),
        given=repr(name),
        fix=PLUG_INS.how_to_get(package) if package else did_you_mean(name, names, _also_called()),
    )


def check_available(name: Any) -> type[ScalingMethod]:
    """The method that a user's YAML asks for; unlike method_named, nobody else may have its name.

    Raises:
        ConfigError: as method_named, or a package registers this name although it is ours or another's.
    """
    if isinstance(name, str):
        PLUG_INS.check_claims(name, "method")
    return method_named(name)


def _also_called() -> dict[str, str]:
    return {other: method.name for method in BUILT_IN.values() for other in method.also_called}
