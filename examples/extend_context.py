"""Extend the context window of a GPT: edit two keys of the model YAML, launch this.

    python examples/extend_context.py model=demo
    torchrun --nproc-per-node 8 examples/extend_context.py model=llama-7b restore_from_path=/path/to/llama
    python examples/extend_context.py --config-name pretrain model.data.data_prefix=[/path/to/tokens]

The plan is printed first; dry_run=true stops there, --cfg job shows the YAML.
"""

from __future__ import annotations

from nemo.core.config import hydra_runner
from omegaconf import DictConfig

from nemo_pi.training.cli import reports_errors


@hydra_runner(config_path="../conf", config_name="extend_context")
@reports_errors
def main(cfg: DictConfig) -> None:
    """Plans and trains."""
    from nemo_pi.training.run import run

    result = run(cfg)
    if result is not None:
        result.announce()


if __name__ == "__main__":  # checkpointing and loaders may start processes that import this file
    main()
