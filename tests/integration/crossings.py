"""Layout × sampler × method × packing: rows in which every two values of different columns meet.

Rows are not listed but dealt, so that a value added to a column meets all others by itself; test_parity
checks that it does.
"""

from __future__ import annotations

from tests.integration.rows import CP2, CP4, DOCUMENTS, PP2, SP, TP2, VPP2, Row

Overrides = tuple[str, ...]

LAYOUTS: dict[str, tuple[Overrides, int]] = {
    "tp2": (TP2, 2),
    "tp2-sp": (TP2 + SP, 2),
    "pp2": (PP2, 2),
    "pp2-vpp2": (PP2 + VPP2, 2),
    "cp2": (CP2, 2),
    "dp2": ((), 2),
    "tp2-pp2": (TP2 + PP2, 4),
    "cp4": (CP4, 4),
    "tp2-cp2": (TP2 + SP + CP2, 4),
    "pp2-cp2": (PP2 + CP2, 4),
}
"""Overrides, and the ranks they need."""

# Static frequencies; frequencies that depend on the length of the whole sequence; a temperature.
METHODS: dict[str, Overrides] = {
    "linear": (),
    "dynamic": ("model.pos_scaling_type=dynamic",),
    "yarn": ("model.pos_scaling_type=yarn",),
}
# Positions that run on, and positions that skip: two chunks of any length, chunks of one length.
SAMPLERS: dict[str, Overrides] = {
    "plain": (),
    "paper": ("pose=paper", "model.data.pose.content_offset=zero"),
    "contiguous": ("pose=contiguous",),
}
# Rows that are one document; that several stand in, cut where the row is full; that whole ones are packed
# into, the rest padded and never scored.
PACKING: dict[str, Overrides] = {
    "whole": (),
    "documents": DOCUMENTS,
    "packed": ("model.data.pack_documents=true",),
}


def crossings() -> tuple[Row, ...]:
    """Three rows a layout: a Latin square of methods, samplers and packings, its lines dealt in turn.

    So all pairs meet in nine different runs on one rank.
    """
    rows = []
    methods, packings, samplers = list(METHODS), list(PACKING), list(SAMPLERS)
    for number, (layout, (overrides, ranks)) in enumerate(LAYOUTS.items()):
        for turn, method in enumerate(methods):
            packing = packings[(number + turn) % len(packings)]
            sampler = samplers[(number + 2 * turn) % len(samplers)]
            both = METHODS[method] + SAMPLERS[sampler] + PACKING[packing]
            name = f"{layout}+{sampler}+{method}+{packing}"
            proves = f"{layout}: {sampler} positions, {method} frequencies, {packing} rows"
            rows.append(Row(name, proves, overrides, ranks, both))
    return tuple(rows)


CROSSINGS = crossings()


def crossing(name: str) -> Row:
    """The row of this name."""
    return next(row for row in CROSSINGS if row.name == name)
