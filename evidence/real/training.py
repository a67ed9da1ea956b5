"""The three runs: PI, YaRN and direct fine-tuning, by PoSE on samples an eighth of the model's window."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from evidence.real.model import ROOT
from evidence.real.sizes import SAMPLE, TARGET


@dataclass(frozen=True)
class Method:
    """A way to reach the target window."""

    key: str
    """Its folder."""
    title: str
    """What the report calls it."""
    overrides: tuple[str, ...]
    """Hydra overrides that choose it."""
    learning_rate: float = 2.0e-4
    """The peak; it falls to nothing, as a step is a single sample."""


METHODS = (
    # It blunts attention to every distance, which so few samples mend at a rate that would cost all else.
    Method(
        "pi",
        "Position Interpolation",
        ("model.pos_scaling_type=linear", "model.optim.lr_multipliers={attention_qkv: 10}"),
        learning_rate=1.0e-4,
    ),
    Method("yarn", "YaRN", ("model.pos_scaling_type=yarn",)),
    Method(
        "direct",
        "direct fine-tuning",
        ("model.pos_scaling_type=none", "model.pos_scaling_factor=1.0"),
    ),
)


def exported(method: Method, folder: Path) -> Path:
    """Where its trained model is written as a Hugging Face folder."""
    return folder / method.key / "huggingface"


def overrides(method: Method, folder: Path, steps: int, precision: str) -> list[str]:
    """The command line of a method's run."""
    train, valid = (folder / "data" / f"{split}_text_document" for split in ("train", "valid"))
    return [
        "model=auto",
        f"restore_from_path={folder / 'model'}",
        f"name={method.key}",
        f"model.max_position_embeddings={TARGET}",
        *method.overrides,
        f"model.data.data_prefix={{train:[1.0,{train}],validation:[{valid}],test:[{valid}]}}",
        "pose=paper",
        f"model.encoder_seq_length={SAMPLE}",
        "model.global_batch_size=1",
        f"trainer.max_steps={steps}",
        f"model.optim.lr={method.learning_rate}",
        "model.optim.sched.name=linear",
        f"model.optim.sched.warmup_steps={max(2, min(20, steps // 10))}",
        f"trainer.precision={precision}",
        "trainer.limit_val_batches=0",
        f"exp_manager.exp_dir={folder}",
        "exp_manager.checkpoint_callback_params.save_top_k=1",
        f"model.export.hf_path={exported(method, folder)}",
    ]


def train(method: Method, folder: Path, steps: int, precision: str) -> None:
    """Run it; one that was cut off goes on from its checkpoint."""
    script = ROOT / "examples" / "extend_context.py"
    chosen = overrides(method, folder, steps, precision)
    done = subprocess.run([sys.executable, "-W", "ignore", str(script), *chosen], cwd=ROOT)
    if done.returncode:  # also a run that was told to stop, which has saved its step
        raise SystemExit(
            f"{method.title}: training ended with status {done.returncode}; start again to go on"
        )


def preprocess(split: str, folder: Path) -> None:
    """Encode a split of the bundled books with the model's tokenizer."""
    script = ROOT / "examples" / "preprocess_data.py"
    text, prefix = ROOT / "demo" / "text" / f"{split}.jsonl.xz", folder / "data" / split
    flags = ["--tokenizer-library", "huggingface", "--tokenizer-model", str(folder / "model"), "--append-eod"]
    words = ["--input", str(text), "--output-prefix", str(prefix), "--overwrite", *flags]
    subprocess.run([sys.executable, "-W", "ignore", str(script), *words], cwd=ROOT, check=True)
