"""Python's cyclic garbage collector, out of the way while a command imports what it needs.

Importing PyTorch, Lightning, NeMo and Megatron makes 700,000 objects, of which 2% are garbage (some
megabytes). The collector, which goes by how many objects there are, walks over all of them again and again
meanwhile: a quarter of the processor time until a run's first step.
"""

from __future__ import annotations

import gc

_paused = False


def pause() -> None:
    """Switches the collector off until `resume`; for a command whose process is its own.

    Does nothing where somebody else has switched it off.
    """
    global _paused
    if gc.isenabled():
        gc.disable()
        _paused = True


def resume() -> None:
    """Switches it on again where `pause` switched it off, and nowhere else.

    What there is by then, it never looks at again: modules stay until the process ends, and each full
    collection of a long run would walk over them. So call it before a model is made, which may be garbage
    one day.
    """
    global _paused
    if _paused:
        _paused = False
        gc.freeze()
        gc.enable()
