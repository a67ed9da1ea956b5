"""The demo's runs: the same YAML and entry point as any other, on the bundled model and text."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from hydra import compose, initialize_config_dir

from demo.methods import WINDOW, Method
from demo.prepare import Prepared, prepare
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.config.load import resolve
from nemo_pi.parallel import groups
from nemo_pi.training.engine import MegatronEngine
from nemo_pi.training.export import export_engine
from nemo_pi.training.settings import engine_settings
from nemo_pi.training.weights import load_initial_weights

ROOT = Path(__file__).resolve().parent.parent
BASE_MODEL = ROOT / "demo" / "model"
# Every second step reads blocks with pass keys: a few hundred steps hold too few questions otherwise.
PASSKEY_SHARE = 0.5


def prepare_samples(methods: Iterable[Method], folder: Path, steps: int) -> dict[int, Prepared]:
    """Writes the data of all methods into `folder`, once for each length of sample.

    Most pass keys are asked for within the base model's window: many questions in few tokens.

    Returns:
        By the tokens of a sample, what the methods with such samples read.
    """
    rows = {method.window: method.rows for method in methods}
    return {
        window: prepare(
            folder / f"data_{window}",
            window=window,
            passkey_blocks_count=steps * count,
            short_length=WINDOW if window > WINDOW else None,
        )
        for window, count in rows.items()
    }


def overrides(method: Method, data: Prepared, folder: Path, steps: int) -> list[str]:
    """The command-line overrides of a method's run."""
    train = f"[{1 - PASSKEY_SHARE},{data.train},{PASSKEY_SHARE},{data.passkey}]"
    return [
        "model=demo",
        f"name={method.key}",
        f"restore_from_path={BASE_MODEL}",
        f"model.tokenizer.model={BASE_MODEL}",
        f"exp_manager.exp_dir={folder}",
        f"trainer.max_steps={steps}",
        f"model.data.data_prefix={{train:{train},validation:[{data.valid}],test:[{data.valid}]}}",
        f"model.export.hf_path={trained_folder(method, folder)}",
        *method.sample_overrides(),
        *method.overrides,
    ]


def trained_folder(method: Method, folder: Path) -> Path:
    """Where a method's trained model is exported to."""
    return folder / method.key / "huggingface"


def train(method: Method, data: Prepared, folder: Path, steps: int) -> Path:
    """Runs examples/extend_context.py; a run that was cut off goes on from its checkpoint.

    Returns:
        The Hugging Face folder of the trained model.
    """
    exported = trained_folder(method, folder)
    if not exported.exists():
        script = ROOT / "examples" / "extend_context.py"
        command = [sys.executable, str(script), *overrides(method, data, folder, steps)]
        subprocess.run(command, cwd=ROOT, check=True)
    if not exported.exists():  # a run that is asked to stop saves and ends without an error
        raise SystemExit("Training was stopped; start again to go on from its checkpoint.")
    return exported


def extend_untrained(method: Method, data: Prepared, folder: Path) -> Path:
    """Exports the base weights with a method's scaling, through Megatron and back.

    Returns:
        The Hugging Face folder.
    """
    exported = folder / method.key / "untrained"
    if exported.exists():
        return exported
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose("extend_context", overrides(method, data, folder, steps=100))
    run = resolve(cfg, world_size=1, summary=read_summary(BASE_MODEL))
    groups.ensure_process_group()
    groups.initialize(run.parallel, run.seed)
    engine = MegatronEngine(engine_settings(run))
    load_initial_weights(engine, run)
    return export_engine(engine, run, exported)
