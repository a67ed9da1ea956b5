"""Our answers beside the truth and beside each other.

Shape legend: B rows, S tokens, V vocabulary, H hidden size, L layers, F rotary pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nemo_pi.verification.answers import GENERATED, Answers
from nemo_pi.verification.exporting import NOT_DONE
from nemo_pi.verification.findings import FAILED, OK, SKIPPED, Finding, measured
from nemo_pi.verification.probes import Probes
from nemo_pi.verification.reference import Truth

MARGIN = 8.0
"""How many times further than one rounding of every product moves a model it may be computed."""


def allowed(truth: Truth, rows: Sequence[int]) -> float:
    """The largest difference of logits in some rows that rounding explains."""
    return MARGIN * float(truth.moved_BS[list(rows)].max())


def why(unit: float) -> str:
    """In words, where tolerances come from."""
    return (
        f"{MARGIN:g} × the largest change of these logits when the output of every module of transformers' "
        f"model in float64 is rounded once (by {unit:.1e} of its size)"
    )


def against_truth(answers: Answers, truth: Truth, probes: Probes, unit: float, whose: str) -> list[Finding]:
    """Logits row by row, and hidden states layer by layer.

    Args:
        whose: what the truth is of, in words.
    """
    found = []
    for row, name in enumerate(probes.names):
        if row in probes.documents:
            continue
        error_SV = (answers.logits_BSV[row].double() - truth.logits_BSV[row]).abs()
        difference, token = _largest(error_SV)
        where = f"position {int(probes.positions_BS[row, token]):,}"
        tolerance = allowed(truth, [row])
        found.append(measured(f"logits, {name}", whose, difference, tolerance, where, why(unit)))
    if answers.layers_LBSH is not None and answers.layers_LBSH.shape == truth.layers_LBSH.shape:
        found.append(_layers(answers.layers_LBSH, truth, probes, unit, whose))
    return found


def _layers(ours_LBSH: Tensor, truth: Truth, probes: Probes, unit: float, whose: str) -> Finding:
    """The first layer that is too far off, else the one that comes nearest to it."""
    error_LBS = (ours_LBSH.double() - truth.layers_LBSH).abs().amax(-1)
    # Of a layer, whichever token moves most: one that rounding hardly moves has others beside it.
    limit_LB1 = MARGIN * truth.layers_moved_LBS.amax(-1, keepdim=True)
    ratio_LBS = error_LBS / limit_LB1
    beyond = (ratio_LBS.flatten(1).amax(1) > 1).nonzero()
    layer = int(beyond[0]) if len(beyond) else int(ratio_LBS.flatten(1).amax(1).argmax())
    row, token = divmod(int(ratio_LBS[layer].argmax()), ratio_LBS.size(2))
    where = f"layer {layer}, {probes.names[row]}, position {int(probes.positions_BS[row, token]):,}"
    return measured(
        "hidden states behind each layer",
        whose,
        float(error_LBS[layer, row, token]),
        float(limit_LB1[layer, row, 0]),
        where,
        why(unit).replace("these logits", "this layer's output"),
    )


def against_itself(
    answers: Answers, truth: Truth, probes: Probes, unit: float, layout: str = ""
) -> Iterator[Finding]:
    """Kernels, packed documents, kept keys and the way back, each beside the plain way."""
    rows = range(len(probes.names))
    names = ", ".join(f"{job} {name}" for job, name in answers.backends.items())
    error_BSV = (answers.logits_BSV - answers.reference_BSV).double().abs()
    difference, place = _largest(error_BSV.flatten(0, 1))
    row, token = divmod(place, probes.num_tokens)
    where = f"{probes.names[row]}, position {int(probes.positions_BS[row, token]):,}"
    check = f"kernels ({names})"
    yield measured(check, "PyTorch's operators", difference, allowed(truth, rows), where, why(unit), layout)
    parts = probes.unpacked(answers.packed_SV[None])
    errors = [
        (part_SV - answers.logits_BSV[row, : part_SV.size(0)]).double().abs()
        for part_SV, row in zip(parts, probes.documents, strict=True)
    ]
    difference, number = max((float(error_SV.max()), number) for number, error_SV in enumerate(errors))
    where = f"document {number + 1}, position {_largest(errors[number])[1]:,}"
    tolerance = allowed(truth, probes.documents)
    yield measured("packed documents", "each alone", difference, tolerance, where, why(unit), layout)
    yield _kept_keys(answers, truth, probes, unit, layout)
    yield _way_back(answers, layout)


def _way_back(answers: Answers, layout: str) -> Finding:
    check, against, first = "export, bit by bit", "what was read", "; ".join(answers.unlike[:3])
    if answers.unlike:
        where = first + (f"; {len(answers.unlike)} in all" if len(answers.unlike) > 3 else "")
        return Finding(check, against, FAILED, where=where, layout=layout)
    if answers.how.startswith(NOT_DONE):
        return Finding(
            check, against, SKIPPED, where=answers.how.removeprefix(NOT_DONE).strip(), layout=layout
        )
    return Finding(check, against, OK, where=answers.how, layout=layout)


def _kept_keys(answers: Answers, truth: Truth, probes: Probes, unit: float, layout: str) -> Finding:
    check, against = "tokens read one by one, keys kept", "all at once"
    if answers.cached_CV is None:
        where = "this layout keeps no keys: every token is a pass of its own"
        return Finding(check, against, SKIPPED, where=where, layout=layout)
    whole_CV = answers.logits_BSV[0, -(GENERATED + 1) :]
    difference, token = _largest((answers.cached_CV - whole_CV).double().abs())
    where = f"position {probes.num_tokens - GENERATED - 1 + token:,}"
    return measured(check, against, difference, allowed(truth, [0]), where, why(unit), layout)


def layout_beside_truth(
    answers: Answers, truth: Truth, probes: Probes, unit: float, whose: str, layout: str
) -> Finding:
    """Logits of all rows at a layout, the row that comes nearest to its tolerance."""
    error_BS = (answers.logits_BSV.double() - truth.logits_BSV).abs().amax(-1)
    limit_B1 = MARGIN * truth.moved_BS.amax(-1, keepdim=True)
    row, token = divmod(int((error_BS / limit_B1).argmax()), probes.num_tokens)
    where = f"{probes.names[row]}, position {int(probes.positions_BS[row, token]):,}"
    difference, tolerance = float(error_BS[row, token]), float(limit_B1[row, 0])
    return measured("logits, all rows", whose, difference, tolerance, where, why(unit), layout)


def angles(
    ours: Sequence[tuple[Tensor, Tensor]], truth: Truth, probes: Probes, whose: str, *, each_row: bool
) -> Iterator[Finding]:
    """Every table that transformers makes beside that of ours which is nearest to it.

    Args:
        ours: cosines and sines [B, S, F], fp32, for each kind of layer.
        each_row: whether frequencies were made anew for each row's length: two ways to compute one in fp32
            may end one unit apart, and every position multiplies that.
    """
    reason = "half a unit in the last place of fp32: both are rounded once from the same exact angle"
    slack_BS = torch.zeros(probes.positions_BS.shape, dtype=torch.float64)
    if each_row:
        slack_BS = probes.positions_BS * 2.0**-24
        reason += "; at these positions, half a unit of a frequency that depends on the length"
    for number, theirs in enumerate(truth.tables, start=1):
        limit_BS = 2.0**-24 * max(1.0, float(theirs[0].abs().max())) + slack_BS
        error_BS = min((_table_error(mine, theirs) for mine in ours), key=lambda error: float(error.max()))
        row, token = divmod(int((error_BS / limit_BS).argmax()), probes.num_tokens)
        where = f"{probes.names[row]}, position {int(probes.positions_BS[row, token]):,}"
        name = "cosines and sines" + (f", table {number}" if len(truth.tables) > 1 else "")
        error, limit = float(error_BS[row, token]), float(limit_BS[row, token])
        yield measured(name, whose, error, limit, where, reason)


def _table_error(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> Tensor:
    """[B, S], the largest over pairs of cosine and sine."""
    errors = []
    for mine_BSF, their_BSD in zip(ours, theirs, strict=True):
        pairs = mine_BSF.size(-1)
        if their_BSD.size(-1) not in (pairs, 2 * pairs):
            return torch.full(mine_BSF.shape[:2], float("inf"))
        halves = (their_BSD[..., :pairs], their_BSD[..., :: their_BSD.size(-1) // pairs])
        # One angle stands in both channels of its pair: halves of the table, or neighbours.
        errors.append(torch.stack([(mine_BSF.double() - half).abs().amax(-1) for half in halves]).amin(0))
    return torch.maximum(*errors)


def _largest(error_SV: Tensor) -> tuple[float, int]:
    """The largest entry, and the token that it is of; what is no number is the largest."""
    per_S = error_SV.nan_to_num(nan=float("inf")).amax(-1)
    return float(per_S.max()), int(per_S.argmax())
