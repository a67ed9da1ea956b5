"""What a message names as its fix can be pasted behind the command, and then the run is accepted."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.config.load import checkpoint_path, resolve
from nemo_pi.config.trainer_keys import world_size_of
from nemo_pi.errors import ConfigError
from nemo_pi.rope.spec import ContextExtension
from tests.unit.config.builders import YAML_SHAPE, summary_of, values_of

_KEY = r"(?:model|trainer|exp_manager)\.[\w.]+="
OVERRIDE = re.compile(rf"'({_KEY}[^']+)'|({_KEY}[^\s,;)]+)")
PLAIN = summary_of(extension=ContextExtension.unscaled(512, 64, base=5e5))
SCALED = summary_of(extension=ContextExtension.build(original_window=512, target_window=4096, head_dim=64))
DYNAMIC = summary_of(
    extension=ContextExtension.build(original_window=512, target_window=4096, method="dynamic", head_dim=64)
)


def ways_out(fix: str) -> list[list[str]]:
    """The overrides of each alternative that a fix offers."""
    alternatives = re.split(r"; |, or (?=model|trainer)", fix)
    found = [[a or b for a, b in OVERRIDE.findall(alternative)] for alternative in alternatives]
    return [overrides for overrides in found if overrides]


def resolved_with(values: dict[str, Any], overrides: list[str], summary: CheckpointSummary | None) -> None:
    """Resolves a configuration with overrides as the command line applies them."""
    cfg = OmegaConf.create(values)
    for override in OverridesParser.create().parse_overrides(overrides):
        OmegaConf.update(cfg, override.key_or_group, override.value(), merge=False, force_add=True)
    resolve(cfg, world_size=world_size_of(cfg.trainer, {}), summary=summary)


def model(**keys: Any) -> dict[str, Any]:
    """A configuration with these keys alone about windows."""
    return values_of({"max_position_embeddings": None, **keys})


def pose(**keys: Any) -> dict[str, Any]:
    """A configuration whose positions skip."""
    return values_of({"data": {"data_prefix": ["/d"], "pose": keys}})


THREE = {"max_steps": 100, "devices": 3}
SCRATCH = {**YAML_SHAPE, "original_max_position_embeddings": 512}
SELECTIVE = {"activations_checkpoint_granularity": "selective"}
CASES: dict[str, tuple[dict[str, Any], CheckpointSummary | None, int]] = {
    # name: what is given, beside which checkpoint, and how many ways out the message offers
    "scaled, a longer window": (model(max_position_embeddings=8192), SCALED, 2),
    "scaled, two that disagree": (model(max_position_embeddings=32768, pos_scaling_factor=8.0), SCALED, 2),
    "scaled, a factor": (model(pos_scaling_factor=2.0), SCALED, 2),
    "scaled, a factor of 1": (model(pos_scaling_factor=1.0), SCALED, 2),
    "scaled, the old factor": (model(seq_len_interpolation_factor=2.0), SCALED, 2),
    "scaled, linear by the old factor": (model(seq_len_interpolation_factor=8.0), DYNAMIC, 2),
    "scaled, a method": (model(pos_scaling_type="yarn"), SCALED, 2),
    "scaled, none": (model(pos_scaling_type="none"), SCALED, 2),
    "scaled, an original window": (model(original_max_position_embeddings=4096), SCALED, 2),
    "scaled, arguments": (
        model(pos_scaling_type="yarn", pos_scaling_extra_args={"beta_fast": 16}),
        SCALED,
        2,
    ),
    "scaled, too short": (model(max_position_embeddings=256), SCALED, 1),
    "scaled, a base": (model(rotary_base=8e6), SCALED, 2),
    "scaled, a base and a window": (model(rotary_base=1e16, max_position_embeddings=8192), SCALED, 3),
    "scaled, a part": (model(rotary_percentage=0.5), SCALED, 1),
    "a base": (values_of({"rotary_base": 8e6}), PLAIN, 2),
    "a part": (values_of({"rotary_percentage": 0.5}), PLAIN, 1),
    "abf without its base": (values_of({"pos_scaling_type": "abf"}), PLAIN, 1),
    "no window": (model(), PLAIN, 2),
    "a factor that is not the ratio": (values_of({"pos_scaling_factor": 3.0}), PLAIN, 2),
    "a shorter window": (model(max_position_embeddings=256), PLAIN, 1),
    "two factors": (model(pos_scaling_factor=8.0, seq_len_interpolation_factor=8.0), PLAIN, 1),
    "an old factor of another method": (
        model(pos_scaling_type="yarn", seq_len_interpolation_factor=8.0),
        PLAIN,
        1,
    ),
    "a training length": (values_of({"encoder_seq_length": 8192}), PLAIN, 2),
    "another original window": (values_of({"original_max_position_embeddings": 1024}), PLAIN, 1),
    "warm-up": (values_of(trainer={"max_steps": 3}), PLAIN, 1),
    "one step": (values_of(trainer={"max_steps": 1}), PLAIN, 1),
    "constant steps": (values_of({"optim": {"sched": {"constant_steps": 90}}}), PLAIN, 1),
    "a least rate": (values_of({"optim": {"sched": {"min_lr": 1.0}}}), PLAIN, 1),
    "two ranks": (values_of({"tensor_model_parallel_size": 2, "global_batch_size": 4}), PLAIN, 1),
    "sequence parallel alone": (values_of({"sequence_parallel": True}), PLAIN, 1),
    "an exchange alone": (values_of({"cp_comm_type": "p2p"}), PLAIN, 1),
    "a batch": (
        values_of({"micro_batch_size": 3, "global_batch_size": 4}),
        PLAIN,
        1,
    ),
    "chunks of a pose": (pose(sampler="released", chunks=3), PLAIN, 2),
    "too many chunks": (pose(chunks=1000), PLAIN, 1),
    "an offset of a pose": (pose(sampler="released", content_offset="aligned"), PLAIN, 1),
    "a pose that moves text of packed documents": (
        values_of({"data": {"data_prefix": ["/d"], "pack_documents": True, "pose": {"sampler": "released"}}}),
        PLAIN,
        2,
    ),
    "nothing to skip": (
        values_of({"encoder_seq_length": 4096, "data": {"data_prefix": ["/d"], "pose": {}}}),
        PLAIN,
        1,
    ),
    "loss": (values_of({"loss": "full", "cross_entropy_loss_fusion": True}), PLAIN, 1),
    "size of a piece of the loss": (values_of({"loss": "full", "loss_chunk_size": 7}), PLAIN, 1),
    "an MLP that is recomputed already": (
        values_of({**SELECTIVE, "activations_checkpoint_modules": ["mlp"], "mlp_chunk_size": 64}),
        PLAIN,
        1,
    ),
    "an MLP that is recomputed beside attention": (
        values_of(
            {**SELECTIVE, "activations_checkpoint_modules": ["mlp", "core_attn"], "mlp_chunk_size": 64}
        ),
        PLAIN,
        1,
    ),
    "nothing that could wait": (
        values_of({"activations_offload": "disk", "activations_checkpoint_granularity": "selective"}),
        PLAIN,
        2,
    ),
    "several layers that wait": (
        values_of(
            {
                "activations_offload": "disk",
                "activations_checkpoint_granularity": "full",
                "activations_checkpoint_num_layers": 2,
            }
        ),
        PLAIN,
        1,
    ),
    "a folder for nothing": (values_of({"activations_offload_folder": "/tmp"}), PLAIN, 1),
    "all but attention, and more": (
        values_of({**SELECTIVE, "activations_checkpoint_modules": ["all_but_core_attn", "mlp"]}),
        PLAIN,
        1,
    ),
    "slices of the MLP": (values_of({"mlp_chunk_size": 0}), PLAIN, 1),
    "stages": (
        values_of({"pipeline_model_parallel_size": 3, "global_batch_size": 3}, trainer=THREE),
        PLAIN,
        1,
    ),
    "virtual stages alone": (values_of({"virtual_pipeline_model_parallel_size": 2}), PLAIN, 1),
    "checkpoints": (
        values_of(exp_manager={"checkpoint_callback_params": {"save_top_k": -2}}),
        PLAIN,
        1,
    ),
    "workers": (values_of({"data": {"data_prefix": ["/d"], "num_workers": -1}}), PLAIN, 1),
    "devices": (values_of(trainer={"max_steps": 100, "devices": 0}), PLAIN, 1),
    "another size": (values_of({"num_layers": 5}), PLAIN, 1),
    "from scratch, too short": (
        values_of({**SCRATCH, "original_max_position_embeddings": 8192}),
        None,
        1,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_way_out_works(name: str) -> None:
    values, summary, number = CASES[name]
    with pytest.raises(ConfigError) as caught:
        resolved_with(values, [], summary)
    ways = ways_out(caught.value.fix)
    assert len(ways) == number, caught.value.fix
    for overrides in ways:
        resolved_with(values, overrides, summary)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("scaled, ")])
def test_the_line_for_the_yaml_says_the_same_as_the_overrides(name: str) -> None:
    values, summary, _ = CASES[name]
    with pytest.raises(ConfigError) as caught:
        resolved_with(values, [], summary)
    for overrides, line in re.findall(r"not on top\): (.+?) \(in the YAML, `(.+?)`\)", caught.value.fix):
        asked = OmegaConf.to_container(OmegaConf.from_dotlist(overrides.split()))
        assert yaml.safe_load(line) == asked
        merged = {**values, "model": {**values["model"], **yaml.safe_load(line)["model"]}}
        resolved_with(merged, [], summary)


def test_the_warm_up_that_fits_is_named() -> None:
    with pytest.raises(ConfigError, match=r"model\.optim\.sched\.warmup_steps=2"):
        resolved_with(values_of(trainer={"max_steps": 3}), [], PLAIN)


def test_an_open_checkpoint_is_asked_for_first_and_hides_no_misspelt_key() -> None:
    values = values_of({"sed": 1}, restore_from_path="???")
    with pytest.raises(ConfigError) as caught:
        checkpoint_path(values)
    assert caught.value.field == "restore_from_path, model.sed"
    assert "restore_from_path=/path" in caught.value.fix and "did you mean model.seed?" in caught.value.fix


def test_a_run_without_any_size_is_told_of_the_checkpoint() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve({**values_of(), "restore_from_path": None}, world_size=1, summary=None)
    assert caught.value.field == "restore_from_path"
    assert caught.value.fix.startswith("restore_from_path=")


def test_what_is_wrong_in_several_places_is_said_at_once() -> None:
    values = values_of(
        {"rotary_base": 8e6, "attention_backend": "nativ", "tensor_model_parallel_size": 3},
        trainer={"max_steps": 3, "precision": "fp32"},
    )
    with pytest.raises(ConfigError) as caught:
        resolve(values, world_size=1, summary=PLAIN)
    keys = ["trainer.precision", "model.attention_backend", "model.optim.sched.warmup_steps"]
    keys += ["model.rotary_base", "model.tensor_model_parallel_size"]
    assert caught.value.field == ", ".join(keys)
    for part in (caught.value.required, caught.value.given, caught.value.fix):
        assert all(f"{key}: " in part for key in keys)
