"""What of the forward pass a YAML asks to keep, and where."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_pi.config.activations import chunk_size, resolve_mlp_chunk
from nemo_pi.config.memory import estimate_memory
from nemo_pi.config.plan import render_plan
from nemo_pi.config.schema import ModelConfig
from nemo_pi.errors import BackendUnavailableError, ConfigError
from nemo_pi.model.build import check_backends
from tests.unit.config.builders import SHAPE, run_of


@pytest.mark.parametrize(("given", "tokens"), [(None, None), (7, 7), ("auto", 1024), (10**9, 10**9)])
def test_slices_of_the_mlp(given: Any, tokens: int | None) -> None:
    assert resolve_mlp_chunk(replace(ModelConfig(), mlp_chunk_size=given), SHAPE) == tokens
    assert run_of({"mlp_chunk_size": given}).engine.build.mlp_chunk_tokens == tokens


def test_slices_grow_with_the_model() -> None:
    assert [chunk_size(width) for width in (64, 4096, 16384)] == [1024, 4096, 16384]


@pytest.mark.parametrize("given", [0, -1, "all"])
def test_no_number_of_tokens(given: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_mlp_chunk(replace(ModelConfig(), mlp_chunk_size=given), SHAPE)
    assert caught.value.field == "model.mlp_chunk_size"


def test_the_plan_says_whether_anything_is_sliced() -> None:
    assert "MLP  " not in render_plan(run_of())
    assert "1,024 tokens at a time\n" in render_plan(run_of({"mlp_chunk_size": "auto"}))
    assert "8,192 tokens at a time, which is all of them at once" in render_plan(
        run_of({"mlp_chunk_size": 8192})
    )


FULL = {"activations_checkpoint_granularity": "full"}
SPARED = {
    "activations_checkpoint_granularity": "selective",
    "activations_checkpoint_modules": ["all_but_core_attn"],
}


@pytest.mark.parametrize("recompute", [FULL, SPARED, FULL | {"activations_checkpoint_method": "block"}])
def test_layers_wait_in_a_file(recompute: dict[str, Any], tmp_path: Path) -> None:
    asked = {"activations_offload": "disk", "activations_offload_folder": str(tmp_path)}
    found = run_of(recompute | asked).recompute
    assert (found.offload, found.folder, found.is_ours) == ("disk", str(tmp_path), True)
    assert run_of(recompute | {"activations_offload": "disk"}).recompute.folder == tempfile.gettempdir()
    assert run_of(recompute).recompute.is_ours == ("activations_checkpoint_modules" in recompute)
    assert str(tmp_path) in render_plan(run_of(recompute | asked))


def test_a_plan_for_a_gpu_is_made_without_one() -> None:
    run = run_of(FULL | {"activations_offload": "host"})
    assert "waits in host memory" in render_plan(run)
    with pytest.raises(BackendUnavailableError, match="activations_offload=disk"):
        check_backends(run.shape, run.extension, run.parallel, run.engine.build)


def test_transformer_engine_does_not_hand_out_what_attention_keeps() -> None:
    run = run_of(SPARED)
    with pytest.raises(BackendUnavailableError, match="all_but_core_attn"):
        check_backends(
            run.shape, run.extension, run.parallel, replace(run.engine.build, transformer_engine=True)
        )


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"activations_offload": "gpu"}, "activations_offload"),
        ({"activations_offload": "disk"}, "activations_offload"),
        (FULL | {"activations_offload_folder": "/x"}, "activations_offload_folder"),
        (
            FULL | {"activations_offload": "disk", "activations_checkpoint_num_layers": 2},
            "activations_checkpoint_num_layers",
        ),
        (
            SPARED | {"activations_checkpoint_modules": ["all_but_core_attn", "mlp"]},
            "activations_checkpoint_modules",
        ),
    ],
)
def test_what_cannot_wait_is_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_of(changes)
    assert caught.value.field == f"model.{key}"


def test_the_file_holds_what_the_device_does_not() -> None:
    """4 layers of 256 in fp32, 4,096 tokens; attention returns 256 channels and a number for 4 heads."""
    kept = estimate_memory(run_of(FULL)).activations
    waiting = estimate_memory(run_of(FULL | {"activations_offload": "disk"}))
    layer = 4096 * 256 * 4
    assert (waiting.disk, waiting.host) == (4 * layer, 0)
    assert kept - waiting.activations == 3 * layer  # one is on its way back
    spared = estimate_memory(run_of(SPARED | {"activations_offload": "host"}))
    assert (spared.disk, spared.host) == (0, 4 * (2 * layer + 4096 * 4 * 4))
    assert estimate_memory(run_of(SPARED)).activations - kept == 4 * (layer + 4096 * 4 * 4)
