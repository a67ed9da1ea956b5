"""Runs of a few steps: what a step costs under PoSE, and other families' first losses."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo.measure import logged_scalars
from demo.methods import TARGET, WINDOW

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "demo" / "model"
STEPS = 8
COSTS = {
    "PoSE to 4,096": ("pose=paper", f"model.max_position_embeddings={TARGET}"),
    "PoSE to 32,768": ("pose=paper", f"model.max_position_embeddings={8 * TARGET}"),
    "full length, 4,096": (f"model.encoder_seq_length={TARGET}",),
}
"""Overrides by name; the first two read samples of 512 tokens."""
FAMILIES = {"LLaMA": "llama", "GPT-J": "gptj"}
"""Names in the paper, and ours."""


def run(name: str, folder: Path, chosen: Sequence[str], steps: int) -> tuple[Path, int]:
    """Train the bundled model or a new one for some steps.

    Returns:
        Its folder, and the most bytes that the process held.
    """
    data = folder / "data_512"
    train, valid = data / "train_text_document", data / "valid_text_document"
    words = [
        "model=demo",
        f"name={name}",
        f"model.data.data_prefix={{train:[1.0,{train}],validation:[{valid}],test:[{valid}]}}",
        "model.pos_scaling_factor=null",
        f"trainer.max_steps={steps}",
        "model.optim.sched.warmup_steps=2",
        "trainer.limit_val_batches=0",
        "exp_manager.create_checkpoint_callback=false",
        f"exp_manager.exp_dir={folder / 'short-runs'}",
        "trainer.enable_progress_bar=false",
        *chosen,
    ]
    script = ROOT / "examples" / "extend_context.py"
    process = subprocess.Popen([sys.executable, "-W", "ignore", str(script), *words], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), words)
    return folder / "short-runs" / name, usage.ru_maxrss * 1024


def measure_costs(folder: Path, file: Path) -> None:
    """Seconds and bytes of a step of one sample; medians without the first steps."""
    costs: dict[str, Any] = {}
    for name, chosen in COSTS.items():
        rows = 1 if name.startswith("full") else 8  # as many tokens a step
        batch = (f"model.global_batch_size={rows}", f"model.micro_batch_size={rows}")
        done, held = run(f"cost-{len(costs)}", folder, (*chosen, *batch), STEPS)
        seconds = [value for _, value in logged_scalars(done, "train_step_seconds")][2:]
        tokens = rows * (TARGET if name.startswith("full") else WINDOW)
        costs[name] = {"seconds": statistics.median(seconds), "bytes": held, "tokens": tokens}
    file.write_text(json.dumps(costs, indent=2) + "\n", encoding="utf-8")


def measure_families(folder: Path, file: Path) -> None:
    """First and later losses of a small new model of each family, scaled linearly, on skipped positions."""
    losses = {}
    for name, family in FAMILIES.items():
        chosen = (
            "restore_from_path=null",
            f"model.family={family}",
            "model.original_max_position_embeddings=512",
            f"model.tokenizer.model={MODEL}",
            "pose=paper",
            "model.num_layers=2",
            "model.global_batch_size=4",
            "model.micro_batch_size=4",
            "model.optim.lr=3.0e-3",
        )
        done, _ = run(f"family-{family}", folder, chosen, 20)
        values = [value for _, value in logged_scalars(done, "reduced_train_loss")]
        losses[name] = (statistics.mean(values[:3]), statistics.mean(values[-3:]))
    file.write_text(json.dumps(losses, indent=2) + "\n", encoding="utf-8")
