"""Extend the context window of a GPT: edit two keys of the model YAML, launch this.

    python examples/extend_context.py model=demo
    torchrun --nproc-per-node 8 examples/extend_context.py model=llama-7b restore_from_path=/path/to/llama
    python examples/extend_context.py --config-name pretrain model.data.data_prefix=[/path/to/tokens]

The plan of the run is printed first, and what is wrong is said before anything is allocated: dry_run=true
stops there. NEMO_PI_VERBOSE=1 shows every message of the libraries underneath.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from nemo_pi import collector
from nemo_pi.cli.runner import hydra_runner


@hydra_runner(config_path="../conf", config_name="extend_context")
def main(cfg: DictConfig) -> Any:
    """Plans and trains."""
    # Imported here: the command line and the YAML are looked at before anything that takes long to import.
    from nemo_pi.cli.quiet import hide_harmless_messages
    from nemo_pi.nemo.run import run

    hide_harmless_messages()  # before the imports that utter them
    result = run(cfg)
    if result is not None:
        result.announce()
    return result


if __name__ == "__main__":  # checkpointing and loaders may start processes that import this file
    collector.pause()  # until training begins
    main()
