"""How the demo measures: held-out books, pass keys, and the training's own losses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from demo.extend import BASE_MODEL
from demo.methods import TARGET, WINDOW, Method
from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.evaluation.evaluate import evaluate
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.results import ModelResults
from nemo_pi.evaluation.tasks.base import TaskContext
from nemo_pi.evaluation.tasks.passkey import Passkey
from nemo_pi.evaluation.tasks.perplexity import Perplexity

# Books of four kinds, none of them trained on.
TITLES = ("Job", "Revelation", "Persuasion", "Moby Dick")
TOKENS_PER_BOOK = 4608


def heldout_documents(path: Path) -> list[list[int]]:
    """The beginning of one held-out work of each kind, as token ids."""
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    chosen = [next(row for row in rows if row["title"].startswith(title)) for title in TITLES]
    return [row["tokens"][:TOKENS_PER_BOOK] for row in chosen]


def measure(
    name: str,
    model: Path,
    heldout: Path,
    *,
    thorough: bool,
    settings: Mapping[str, str] | None = None,
) -> ModelResults:
    """One model's line of the report.

    Args:
        name: what the report calls it.
        model: Hugging Face folder; transformers computes, so nothing of ours can flatter it.
        heldout: what prepare wrote.
        thorough: twice the trials, for `make compare`.
        settings: how it was trained, for the report.
    """
    tokenizer = build_tokenizer("huggingface", str(BASE_MODEL))
    context = TaskContext(tokenizer, heldout_documents(heldout), WINDOW, TARGET, batch_tokens=TARGET)
    lengths = tuple(range(WINDOW, TARGET + 1, WINDOW))
    tasks = (Perplexity(), Passkey(lengths=lengths, trials=4 if thorough else 2))
    print(f"Measuring {name} ...", flush=True)
    with torch.inference_mode():
        origin = {"Configuration": {"computed by": "transformers, float32", **(settings or {})}}
        return evaluate(HuggingFaceScorer(model), tasks, context, name=name, origin=origin)


def describe_training(method: Method, steps: int) -> dict[str, str]:
    """How a method is trained, for the report: what each stage reads, and what its YAML says besides."""
    stages = zip(method.stages, method.steps_of_stages(steps), strict=True)
    read = (f"{count:,} steps of {stage.rows} × {stage.window:,} tokens" for stage, count in stages)
    chosen = [word for stage in method.stages for word in stage.own_keys]
    return {
        "training": ", then ".join(read),
        "overrides": ", ".join(dict.fromkeys([*method.overrides, *chosen])) or "none",
    }


def training_losses(method: Method, folder: Path) -> list[tuple[int, float]]:
    """(step, loss) of a method's training."""
    return logged_scalars(folder / method.key, "reduced_train_loss")


def logged_scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) of a run's TensorBoard files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    points: dict[int, float] = {}
    for file in sorted(folder.glob("events.out.tfevents.*")):
        events = EventAccumulator(str(file))
        events.Reload()
        if name in events.Tags()["scalars"]:
            points.update({event.step + 1: event.value for event in events.Scalars(name)})
    return sorted(points.items())
