"""The demo's runs: the same YAML and entry point as any other, on the bundled model and text."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir

from demo.methods import WINDOW, Method, Stage
from demo.prepare import Prepared, prepare
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.config.load import resolve
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.engine.weights import load_checkpoint_weights
from nemo_pi.nemo.export import export_engine
from nemo_pi.nemo.run import STOPPED
from nemo_pi.parallel import groups

ROOT = Path(__file__).resolve().parent.parent
BASE_MODEL = ROOT / "demo" / "model"


def prepare_samples(methods: Iterable[Method], folder: Path, steps: int) -> dict[Stage, Prepared]:
    """Writes the data of all methods into `folder`, once for each kind of stage.

    Returns:
        What each stage reads.
    """
    blocks = {
        stage: count * stage.rows
        for method in methods
        for stage, count in zip(method.stages, method.steps_of_stages(steps), strict=True)
    }
    return {
        stage: prepare(
            folder / stage.data_name,
            window=stage.window,
            passkey_blocks_count=count,
            short_length=WINDOW if stage.mostly_short_keys else None,
            first_length=stage.first_key_length,
        )
        for stage, count in blocks.items()
    }


def overrides(method: Method, data: Mapping[Stage, Prepared], folder: Path, steps: int) -> list[str]:
    """The command-line overrides of a method's run.

    Args:
        method: what is trained.
        data: what each of its stages reads.
        folder: the demo's results.
        steps: of all stages.
    """
    counts = zip(method.stages, method.steps_of_stages(steps), strict=True)
    stages = [
        _stage(stage, count, data[stage], first=not number) for number, (stage, count) in enumerate(counts)
    ]
    return [
        "model=demo",
        f"name={method.key}",
        f"restore_from_path={BASE_MODEL}",
        f"model.tokenizer.model={BASE_MODEL}",
        f"exp_manager.exp_dir={folder}",
        f"model.export.hf_path={trained_folder(method, folder)}",
        f"stages=[{', '.join(stages)}]",
        *method.overrides,
    ]


def _stage(stage: Stage, steps: int, data: Prepared, *, first: bool) -> str:
    """One entry of `stages`, as the command line takes it."""
    share = stage.passkey_share
    train = f"[{1 - share},{data.train},{share},{data.passkey}]"
    keys = [
        f"max_steps: {steps}",
        f"data.data_prefix: {{train: {train}, validation: [{data.valid}], test: [{data.valid}]}}",
        *stage.keys(),
        # Its data is its own; and gradients of other samples gain nothing from the moments of the first ones.
        *([] if first else ["reset_optimizer: true", "reset_data: true"]),
    ]
    return f"{{{', '.join(keys)}}}"


def trained_folder(method: Method, folder: Path) -> Path:
    """Where a method's trained model is exported to."""
    return folder / method.key / "huggingface"


def train(method: Method, data: Mapping[Stage, Prepared], folder: Path, steps: int) -> Path:
    """Runs examples/extend_context.py; a run that was cut off goes on from its checkpoint.

    Returns:
        The Hugging Face folder of the trained model.
    """
    script, exported = ROOT / "examples" / "extend_context.py", trained_folder(method, folder)
    if not exported.exists():
        chosen = overrides(method, data, folder, steps)
        done = subprocess.run([sys.executable, str(script), *chosen], cwd=ROOT)
        if done.returncode == STOPPED:
            raise SystemExit("Training was stopped; start again to go on from its checkpoint.")
        done.check_returncode()
    return exported


def extend_untrained(method: Method, data: Mapping[Stage, Prepared], folder: Path) -> Path:
    """Exports the base weights with a method's scaling, through Megatron and back.

    Returns:
        The Hugging Face folder.
    """
    exported = folder / method.key / "untrained"
    if exported.exists():
        return exported
    chosen = overrides(method, data, folder, steps=100)
    return export_untrained(chosen, BASE_MODEL, exported)


def export_untrained(chosen: Sequence[str], base: Path, exported: Path) -> Path:
    """Exports the weights of `base` as they are, with the scaling of a run's overrides.

    Returns:
        The Hugging Face folder, `exported`.
    """
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose("extend_context", list(chosen))
    run = resolve(cfg, world_size=1, summary=read_summary(base))
    groups.ensure_process_group()
    groups.initialize(run.parallel, run.seed)
    engine = MegatronEngine(run.engine)
    load_checkpoint_weights(engine, run.checkpoint)
    return export_engine(engine, run, exported)
