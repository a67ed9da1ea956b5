from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nemo_pi.config.load import resolve
from nemo_pi.config.plan import render_plan
from nemo_pi.data.indexed import scored_prefix, write_index
from nemo_pi.errors import BackendUnavailableError
from nemo_pi.families.registry import family_of
from nemo_pi.kernels import native
from nemo_pi.rope.spec import ContextExtension
from tests.unit.config.builders import SHAPE, YAML_SHAPE, run_of, summary_of, values_of


def rows(text: str) -> dict[str, str]:
    """Label → value of every indented line."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("  ")]
    return {line.split("  ")[0].strip(): line.split("  ", 1)[1].strip() for line in lines if "  " in line}


def plan_of(model: dict[str, Any] | None = None, **top: Any) -> dict[str, str]:
    return rows(render_plan(run_of(model, **top)))


def test_conversations_are_counted_with_those_that_are_too_long(tmp_path: Path) -> None:
    prefix = str(tmp_path / "chats_chat_document")
    for name, dtype, kept in ((prefix, np.uint16, 5), (scored_prefix(prefix), np.uint8, 0)):
        lengths = [40, 20_000, 60]
        Path(f"{name}.bin").write_bytes(np.full(sum(lengths), kept, dtype).tobytes())
        write_index(Path(f"{name}.idx"), dtype, lengths)
    marks = np.zeros(20_100, np.uint8)
    marks[:5025] = 1
    Path(f"{scored_prefix(prefix)}.bin").write_bytes(marks.tobytes())
    data = {"data_prefix": [prefix], "splits_string": "1,0,0", "pack_documents": True}
    said = plan_of({"data": data})["conversations"]
    assert said == "3, loss on answers alone (25% of their tokens); 1 of more than 4,096 tokens left out"
    assert "conversations" not in plan_of({"data": {**data, "answer_only_loss": False}})


def test_the_numbers_of_a_run() -> None:
    plan = plan_of(
        {"tensor_model_parallel_size": 2, "global_batch_size": 16, "encoder_seq_length": 2048},
        trainer={"max_steps": 200, "precision": "bf16"},
        world_size=8,
        exp_manager={"exp_dir": "/out", "checkpoint_callback_params": {"every_n_train_steps": 50}},
    )
    assert plan["original"] == "512 tokens, from /models/base/config.json: max_position_embeddings"
    assert plan["target"] == "4,096 tokens"
    assert plan["training length"] == "2,048 tokens, shorter than the target window"
    assert plan["method"] == "linear (Position Interpolation)"
    assert plan["factor"] == "8"
    assert plan["starts from"] == "huggingface checkpoint /models/base, float32"
    assert plan["parameters"] == f"{family_of(SHAPE).num_parameters(SHAPE) / 1e6:.3g} million (llama)"
    assert plan["layers"] == "4 × 256, 4 heads, 2 key/value heads"
    assert plan["ranks"] == "TP 2 · PP 1 · CP 1 · DP 4 (8 ranks)"
    assert plan["micro batch"] == "1 sample"
    assert plan["global batch"] == "16 samples = 4 micro-batches on each of 4 data-parallel ranks"
    assert plan["tokens"] == "32,768 a step, 6.55 million in all"
    assert plan["data"] == "/data/tokens, split 980,10,10"
    assert plan["documents"] == "laid end to end, seen across, positions running on"
    assert "PoSE" not in plan
    assert plan["precision"] == "bf16-mixed"
    assert plan["optimizer"] == "AdamW, betas 0.9 and 0.95, weight decay 0, states sharded"
    assert plan["learning rate"] == "2e-05: 20 warm-up steps from 2e-06, then constant"
    assert plan["logs"] == "/out/run"
    assert plan["checkpoints"] == "/out/run/checkpoints, every 50 steps"
    assert plan["export"] == "none"
    assert plan["tokenizer"] == "huggingface /models/base"


@pytest.mark.parametrize(
    ("model", "label", "value"),
    [
        ({"pos_scaling_type": "none"}, "method", "none: direct fine-tuning at the target window"),
        ({"max_position_embeddings": None, "pos_scaling_factor": 1}, "factor", "1 (nothing is scaled)"),
        ({"pos_scaling_type": "yarn", "pos_scaling_extra_args": {"beta_fast": 16}}, "beta_fast", "16.0"),
        ({"pos_scaling_type": "abf", "pos_scaling_extra_args": {"base": 8e6}}, "bound",
         "reaches 3.22e+04 = 0.0424·L^1.628 for the target window (arXiv 2405.14591)"),
        ({"pos_scaling_type": "abf", "pos_scaling_extra_args": {"base": 3e4}}, "bound",
         "BELOW 3.22e+04 = 0.0424·L^1.628 for the target window (arXiv 2405.14591)"),
        ({"pos_scaling_type": "abf", "pos_scaling_extra_args": {"base": 8e6}}, "base", "8000000.0"),
        ({"pos_scaling_type": "proportional", "pos_scaling_extra_args": {"partial_rotary_factor": 0.25}},
         "partial_rotary_factor", "0.25"),
        ({"activations_checkpoint_granularity": "full"}, "recomputation", "whole layers, uniform, 1 layer"),
        ({"activations_checkpoint_granularity": "selective"}, "recomputation", "core attention"),
        ({"activations_checkpoint_granularity": "selective",
          "activations_checkpoint_modules": ["core_attn", "mlp"]}, "recomputation", "core attention and MLP"),
        ({}, "loss", "from hidden states, 512 tokens at a time"),
        ({"loss": "full"}, "loss", "from whole logits"),
        ({"export": {"hf_path": "/hf"}}, "export", "/hf (Hugging Face, float32)"),
        ({"optim": {"sched": {"name": "cosine", "min_lr": 1e-6, "warmup_steps": 0}}}, "learning rate",
         "2e-05: cosine to 1e-06 at step 100"),
        ({"data": {"data_prefix": [0.3, "/a", 0.7, "/b"]}}, "data", "0.3 /a 0.7 /b, split 980,10,10"),
        ({"data": {"data_prefix": {"train": ["/a"], "test": ["/b"]}}}, "data", "train: /a; test: /b"),
        ({"rotary_kernel": "torch"}, "rotary kernel", "torch"),
        ({"data": {"data_prefix": "/a", "pose": {}}}, "training length",
         "512 tokens, positions skipping through the target window"),
        ({"data": {"data_prefix": "/a", "pose": {}}}, "PoSE",
         "paper: 2 chunks a sample, text from anywhere on in the document"),
        ({"data": {"data_prefix": "/a", "pose": {"sampler": "contiguous", "chunks": 3}}}, "PoSE",
         "contiguous: 3 chunks a sample, unbroken text"),
        ({"data": {"data_prefix": "/a", "pose": {"sampler": "random"}}}, "PoSE",
         "random: positions sampled from 4,096"),
        ({"data": {"data_prefix": "/a", "pose": {}}}, "documents",
         "laid end to end, seen across, positions skipping on"),
        ({"data": {"data_prefix": "/a", "pack_documents": True}}, "documents",
         "packed whole, each seeing only itself; padding is not scored"),
        ({"data": {"data_prefix": "/a", "reset_attention_mask": True}}, "documents",
         "laid end to end, each seeing only itself, positions running on"),
    ],
)  # fmt: skip
def test_choices_are_shown(model: dict[str, Any], label: str, value: str) -> None:
    assert plan_of(model)[label] == value


def test_folders_may_be_given() -> None:
    text = render_plan(run_of(), logs=Path("/a/logs"), checkpoints=Path("/b/ckpt"))
    assert rows(text)["logs"] == "/a/logs"
    assert rows(text)["checkpoints"].startswith("/b/ckpt")


def test_a_checkpoint_of_ours_shows_its_step_and_window() -> None:
    extension = ContextExtension.build(original_window=512, target_window=4096, head_dim=64)
    summary = summary_of(extension=extension, kind="distributed", global_step=1200, dtype="bfloat16")
    plan = rows(render_plan(run_of(summary=summary)))
    assert plan["starts from"] == "distributed checkpoint /models/base, bfloat16, step 1,200"


def test_layers_without_a_window_are_shown() -> None:
    shape = replace(
        SHAPE, family="qwen2", qkv_bias=True, sliding_window=4096, full_attention_layers=(0, 1, 2)
    )
    plan = rows(render_plan(run_of({"transformer_engine": False}, summary=summary_of(shape))))
    assert plan["attention"].endswith(", 4,096 tokens back in 1 of 4 layers")


def test_sliding_window_is_shown() -> None:
    shape = replace(SHAPE, family="mistral", sliding_window=1024)
    plan = rows(render_plan(run_of({"transformer_engine": False}, summary=summary_of(shape))))
    assert plan["attention"] == "sdpa (auto), 1,024 tokens back"
    assert plan["parameters"].endswith("(mistral)")


def test_a_window_that_hides_nothing_rules_nothing_out() -> None:
    shape = replace(SHAPE, family="mistral", sliding_window=4096)
    plan = rows(render_plan(run_of({"attention_backend": "sdpa"}, summary=summary_of(shape))))
    assert plan["attention"] == "sdpa, 4,096 tokens back"
    plan = rows(render_plan(run_of({"transformer_engine": False}, summary=summary_of(shape))))
    expected = "sdpa" if torch.cuda.is_available() or native.obstacle() else "native"
    assert plan["attention"] == f"{expected} (auto), 4,096 tokens back"


@pytest.mark.parametrize(
    ("obstacle", "precision", "expected"),
    [
        (None, "32", "native (auto)"),
        (None, "bf16", "sdpa (auto)"),
        ("not compiled", "32", "sdpa (auto)"),
    ],
)
def test_attention_without_transformer_engine(
    obstacle: str | None, precision: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available():
        expected = "sdpa (auto)"
    monkeypatch.setattr(native, "obstacle", lambda: obstacle)
    plan = plan_of({"transformer_engine": False}, trainer={"max_steps": 100, "precision": precision})
    assert plan["attention"] == expected


def test_dry_run_without_a_checkpoint_says_so() -> None:
    values = values_of({**YAML_SHAPE, "data": {}}, restore_from_path="???", dry_run=True)
    plan = rows(render_plan(resolve(values, world_size=1, summary=None)))
    assert plan["starts from"] == "restore_from_path, not given yet"
    assert plan["data"] == "none given"
    values["restore_from_path"] = None
    assert rows(render_plan(resolve(values, world_size=1, summary=None)))["starts from"] == "random weights"


def test_a_kernel_that_cannot_run_here_stops_at_the_plan() -> None:
    with pytest.raises(BackendUnavailableError, match="apex"):
        render_plan(run_of({"rotary_kernel": "apex"}))


@pytest.mark.parametrize("free", [10**6, 10**15])
def test_the_plan_says_whether_the_disk_holds_the_checkpoints(
    free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    plan = plan_of({}, exp_manager={"checkpoint_callback_params": {"save_top_k": 2}})
    assert ("MORE than the" in plan["disk"]) == (free == 10**6), plan["disk"]


@pytest.mark.parametrize(("length", "little"), [(4096, True), (1 << 20, False)])
def test_the_plan_says_where_a_file_takes_too_little_to_be_noticed(length: int, little: bool) -> None:
    keys = {"activations_checkpoint_granularity": "full", "activations_offload": "disk"}
    window = {"max_position_embeddings": length, "micro_batch_size": 1, "global_batch_size": 1}
    said = plan_of(keys | window, force=True)["file"]
    assert ("below 128.0 MiB the process hardly becomes smaller" in said) == little, said


def test_memory_adds_up() -> None:
    plan = plan_of()
    names = ("weights", "gradients", "optimizer states", "activations", "loss or backward")
    assert all(plan[name].endswith(("MiB", "GiB", "KiB")) for name in names)
    shown = sum(float(plan[name].split()[0]) for name in names)
    assert float(plan["total"].split()[0]) == pytest.approx(shown, abs=0.3)


def test_options_that_go_to_megatron_as_they_stand() -> None:
    assert "Megatron options" not in plan_of()
    plan = plan_of(
        {"overlap_grad_reduce": False, "overlap_param_gather": False, "bias_dropout_fusion": False}
    )
    assert plan["Megatron options"] == (
        "bias_dropout_fusion False, overlap_grad_reduce False, overlap_param_gather False"
    )


def test_how_often_the_corpus_is_read(tmp_path: Path) -> None:
    """2,000 tokens with a share of a half, and two corpora of which one is read four times as often."""
    for name, documents in (("a", 20), ("b", 5)):
        ids = np.zeros(documents * 100, dtype=np.uint16)
        ids.tofile(tmp_path / f"{name}.bin")
        write_index(tmp_path / f"{name}.idx", np.uint16, [100] * documents)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert "training text" not in plan_of()
    plan = plan_of({"data": {"data_prefix": [a], "splits_string": "1,1"}})
    assert plan["training text"] == "about 1,000 tokens, read 410 times"  # in 100 steps of 4,096
    plan = plan_of({"data": {"data_prefix": {"train": [a, b]}}})
    assert plan["training text"] == "about 2,500 tokens, read 102 to 410 times, by corpus"


def test_the_class_of_an_export_that_is_not_the_models_own() -> None:
    """And nothing of it where it is, or where nothing is exported."""
    baichuan = summary_of(replace(SHAPE, family="baichuan", num_query_groups=SHAPE.num_attention_heads))
    row = rows(render_plan(run_of({"export": {"hf_path": "/out/hf"}}, summary=baichuan)))["export"]
    assert row.startswith("/out/hf (Hugging Face, float32), as LlamaForCausalLM: ")
    assert "the same function; transformers has no BaichuanForCausalLM" in row
    assert plan_of({"export": {"hf_path": "/out/hf"}})["export"] == "/out/hf (Hugging Face, float32)"
    assert plan_of()["export"] == "none"


def test_a_padded_vocabulary_is_shown() -> None:
    summary = summary_of(replace(SHAPE, vocab_size=2051))
    plan = plan_of({"tensor_model_parallel_size": 2, "global_batch_size": 2}, world_size=2, summary=summary)
    assert plan["vocabulary"] == "2,051, and 1 row of padding, so that 2 ranks share it"
    assert plan_of(summary=summary)["vocabulary"] == "2,051"
