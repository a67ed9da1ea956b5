"""transformers' Trainer as a script of its own would use it, up to 1,000 steps; says when the first is done.

python -m benchmarks.training.first_step FOLDER TOKENS
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

WINDOW = 512


class Says(TrainerCallback):
    """Prints a line after the first step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Once."""
        if state.global_step == 1:
            print("first step done", flush=True)


def main(folder: str, tokens: int) -> None:
    """Trains the model of `folder` on one sample of `tokens`, its positions interpolated."""
    config = AutoConfig.from_pretrained(folder)
    rope = {"rope_type": "linear", "factor": tokens / WINDOW, "rope_theta": 10000.0}
    config.rope_parameters = rope
    config.max_position_embeddings = tokens
    model = AutoModelForCausalLM.from_pretrained(folder, config=config)
    ids = torch.arange(tokens) % config.vocab_size
    with tempfile.TemporaryDirectory() as output:
        arguments = TrainingArguments(
            output_dir=output,
            max_steps=1000,
            per_device_train_batch_size=1,
            optim="adamw_torch_fused",
            use_cpu=not torch.cuda.is_available(),
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        samples: Any = [{"input_ids": ids, "labels": ids}] * 1000
        Trainer(model=model, args=arguments, train_dataset=samples, callbacks=[Says()]).train()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
