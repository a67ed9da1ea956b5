"""Training on several ranks against training on one: same tokens, same losses, same weights."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path

import pytest

from tests.integration.crossings import CROSSINGS, LAYOUTS, METHODS, PACKING, SAMPLERS, crossing
from tests.integration.products import Curves, largest_update_error, read_weights
from tests.integration.rows import DOCUMENTS, PLAIN_OPTIMIZER, PP2, ROWS, SP, TP2, Row, Tolerance
from tests.integration.world import Run, World


def relative_error(curves: Curves, reference: Curves, name: str) -> float:
    """Largest relative difference of a scalar over the steps, which must be the same ones."""
    given, wanted = curves[name], reference[name]
    assert given.keys() == wanted.keys()
    return max(abs(given[step] - wanted[step]) / abs(wanted[step]) for step in wanted)


def assert_same_training(run: Run, reference: Run, start: Path, tolerance: Tolerance) -> float:
    """Compares loss, gradient norm and validation loss step by step, then every exported tensor.

    Args:
        start: Hugging Face folder that both started from.

    Returns:
        The largest distance of a final tensor from the reference's, as a part of the distance it has moved.
    """
    curves, wanted = run.curves(), reference.curves()
    for name in ("reduced_train_loss", "val_loss"):
        assert relative_error(curves, wanted, name) <= tolerance.loss, f"{name} differs"
    assert relative_error(curves, wanted, "grad_norm") <= tolerance.grad_norm, "grad_norm differs"
    error, tensor = largest_update_error(run.weights(), reference.weights(), read_weights(start))
    assert error <= tolerance.update, f"{tensor} differs by {error:.1e} of its update"
    return error


def reference_of(row: Row, world: World) -> Run:
    """The one-rank run of a row; rows that need the same one share it."""
    return world.reference(*row.both, model=row.model)


def test_every_two_values_of_different_columns_meet() -> None:
    columns = (LAYOUTS, SAMPLERS, METHODS, PACKING)
    rows = [row.name.split("+") for row in CROSSINGS]
    for one, other in combinations(range(len(columns)), 2):
        met = {(row[one], row[other]) for row in rows}
        assert met == set(product(columns[one], columns[other]))


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row.name, marks=[pytest.mark.slow] * row.slow) for row in (*ROWS, *CROSSINGS)],
)
def test_trains_as_one_rank_does(
    world: World, row: Row, record_property: Callable[[str, object], None]
) -> None:
    reference = reference_of(row, world)
    run = world.run(
        row.name, *row.both, *row.overrides, ranks=row.ranks, model=row.model, launcher=row.launcher
    )
    run.finished.check()
    error = assert_same_training(run, reference, world.models[row.model], row.tolerance)
    record_property("update", error)  # tools/families_table.py reads it


def test_a_scaled_gptj_leaves_two_stages_as_a_phi(world: World) -> None:
    """Attention's biases, which no stage holds, are zeros; the others have moved."""
    reference = world.reference(model="gptj")
    run = world.run("gptj-as-phi", *PP2, ranks=2, model="gptj")
    run.finished.check()
    ours, wanted = run.weights(), reference.weights()
    assert ours.keys() == wanted.keys() and "model.final_layernorm.bias" in ours
    for name, expected in wanted.items():
        assert abs(ours[name] - expected).max() < 1e-4, name
        zeros = "self_attn" in name and name.endswith("bias")
        assert (abs(expected).max() == 0) == zeros, name


def test_a_distributed_checkpoint_starts_a_run_as_its_export_does(world: World) -> None:
    """Weights alone, at another layout than they were saved at; the extension begins anew."""
    short = world.run(
        "short", "model.max_position_embeddings=64", "model.pos_scaling_factor=1.0", *TP2, ranks=2
    )
    short.finished.check()
    checkpoint = short.logs / "checkpoints" / "step_00000003"
    reference = world.reference(f"restore_from_path={short.exported}")
    run = world.run("from-checkpoint", f"restore_from_path={checkpoint}", *PP2, ranks=2)
    run.finished.check()
    assert f"distributed checkpoint {checkpoint}" in run.finished.out
    assert_same_training(run, reference, short.exported, Tolerance())


FAULTS = (
    ("shift_positions_on_one_context_rank", crossing("cp2+paper+linear+documents")),
    ("shift_positions_on_one_context_rank", crossing("tp2-cp2+plain+yarn+documents")),
    ("measure_lengths_on_each_context_rank", crossing("cp2+plain+dynamic+packed")),
    ("drop_a_document_boundary", crossing("cp2+paper+linear+documents")),
    ("drop_a_document_boundary", crossing("pp2+contiguous+linear+packed")),
    ("lose_skips_on_last_stage", crossing("pp2+paper+dynamic+whole")),
    ("lose_skips_on_last_stage", crossing("pp2-cp2+paper+yarn+packed")),
    ("forget_gradients_of_other_ranks_keys", crossing("cp2+contiguous+yarn+whole")),
    ("shift_positions_on_last_rank", Row("tp2", "", TP2, 2)),
    ("shift_positions_on_last_rank", Row("pp2", "", PP2, 2)),
    ("keep_gradients_apart", Row("dp2", "", PLAIN_OPTIMIZER, 2)),
    ("give_replicas_the_same_samples", Row("dp2", "", (), 2, DOCUMENTS)),
    ("forget_norms_under_sequence_parallelism", Row("tp2", "", TP2 + SP, 2)),
    ("forget_shared_embedding", Row("pp2", "", PP2, 2, model="tied")),
    ("forget_norms_of_heads", Row("qwen3-tp2", "", TP2, 2, model="qwen3")),
    ("count_layers_on_each_stage", Row("qwen2-pp2", "", PP2, 2, model="qwen2")),
    ("rotate_by_number_on_each_stage", Row("smollm3-pp2", "", PP2, 2, model="smollm3")),
    ("forget_heads_of_other_ranks", Row("olmo2-tp2", "", TP2, 2, model="olmo2")),
    ("forget_gradients_of_other_ranks_heads", Row("olmo2-tp2", "", TP2, 2, model="olmo2")),
)


@pytest.mark.parametrize(("fault", "row"), FAULTS, ids=[f"{row.name}-{fault}" for fault, row in FAULTS])
def test_the_comparison_notices_a_planted_fault(world: World, fault: str, row: Row) -> None:
    reference = reference_of(row, world)
    name = f"fault-{row.name}-{fault}"
    run = world.run(name, *row.both, *row.overrides, ranks=row.ranks, model=row.model, fault=(fault,))
    run.finished.check()
    with pytest.raises(AssertionError, match="differs"):
        assert_same_training(run, reference, world.models[row.model], row.tolerance)
