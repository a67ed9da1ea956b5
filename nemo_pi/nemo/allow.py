"""NeMo restores a .nemo file only to classes it allows; this adds ours, by its full name."""

from __future__ import annotations

from nemo.core.classes import common

RESTORABLE = "nemo_pi.nemo.module.ContextExtensionModel"


def allow_restoring() -> None:
    """Lets NeMo's `restore_from` build ContextExtensionModel; nothing else of this package is allowed."""
    if RESTORABLE not in common.ALLOWED_TARGET_PREFIXES:
        common.ALLOWED_TARGET_PREFIXES.append(RESTORABLE)
