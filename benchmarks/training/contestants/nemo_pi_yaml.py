"""A job as nemo_pi's users would write it: the YAML of examples/extend_context.py with overrides."""

from __future__ import annotations

from nemo_pi.cli.quiet import hide_harmless_messages

hide_harmless_messages()

from hydra import compose, initialize_config_dir  # noqa: E402
from nemo.utils import exp_manager  # noqa: E402, F401, checking its keys imports it; here it counts as one

from benchmarks.training.job import Job  # noqa: E402
from benchmarks.training.material import ROOT  # noqa: E402
from nemo_pi.checkpoint.summary import read_summary  # noqa: E402
from nemo_pi.config.load import resolve  # noqa: E402
from nemo_pi.config.resolved import ResolvedRun  # noqa: E402

# More than any race takes; the run is ended from outside.
_MAX_STEPS = 100_000


def resolved_run(job: Job) -> ResolvedRun:
    """The validated run of a job."""
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose("extend_context", overrides(job))
    return resolve(cfg, world_size=1, summary=read_summary(job.folder))


def overrides(job: Job) -> list[str]:
    """What the job sets on the command line."""
    corpus = f"[{job.corpus}]"
    return [
        "model=base",
        "name=benchmark",
        f"restore_from_path={job.folder}",
        f"model.max_position_embeddings={job.target_window}",
        f"model.encoder_seq_length={job.length}",
        f"model.data.data_prefix={{train:{corpus},validation:{corpus},test:{corpus}}}",
        f"model.optim.lr={job.lr}",
        f"model.optim.betas={list(job.betas)}",
        f"model.optim.eps={job.eps}",
        "model.optim.sched.warmup_steps=0",
        f"model.activations_checkpoint_granularity={'full' if job.recompute else 'null'}",
        f"trainer.accelerator={'gpu' if job.on_gpu else 'cpu'}",
        f"trainer.precision={'bf16-mixed' if job.on_gpu else '32-true'}",
        f"trainer.gradient_clip_val={job.clip_grad}",
        f"trainer.max_steps={_MAX_STEPS}",
        "trainer.limit_val_batches=0",
        "trainer.enable_progress_bar=false",
        *(["pose=paper"] if job.pose else []),
    ]
