"""nemo_pi's engine alone, fed by its own loader: what a step costs without Lightning's loop around it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.training.contestants.nemo_pi_yaml import resolved_run
from benchmarks.training.job import Job
from benchmarks.training.pacer import Pacer
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.engine.weights import load_checkpoint_weights
from nemo_pi.nemo.loaders import training_loader
from nemo_pi.parallel import groups
from nemo_pi.parallel.cpu_memory import keep_freed_memory


def make_step(job: Job) -> Callable[[], float]:
    """A training step as ContextExtensionModel.training_step takes it."""
    run = resolved_run(job)
    if not torch.cuda.is_available():
        keep_freed_memory()
    groups.ensure_process_group()
    groups.initialize(run.parallel, run.seed)
    engine = MegatronEngine(run.engine)
    load_checkpoint_weights(engine, run.checkpoint)
    engine.start_training()
    batches = iter(training_loader(run, consumed_samples=0))
    engine.set_lr(run.schedule.at(0))

    def step() -> float:
        loss = engine.forward_backward(next(batches))
        engine.step()
        return loss

    return step


def run(job: Job, pacer: Pacer) -> None:
    """Races."""
    pacer.run(make_step(job))
