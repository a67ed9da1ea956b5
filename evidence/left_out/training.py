"""A stage of `make demo` again, with one thing changed.

Shape legend: B rows, S tokens of a row.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from demo.extend import BASE_MODEL, ROOT, overrides, prepare_samples
from demo.methods import POSITION_INTERPOLATION, Stage
from demo.prepare import Prepared
from evidence.left_out.longce import LongCE
from evidence.left_out.mixed import cut_row
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.config.load import resolve_stages
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.engine import engine as engines
from nemo_pi.engine.batches import MicroBatch
from nemo_pi.engine.engine import Batch, MegatronEngine
from nemo_pi.engine.megatron_scorer import MegatronScorer
from nemo_pi.engine.weights import load_checkpoint_weights
from nemo_pi.model.loss import loss_report
from nemo_pi.nemo.export import export_engine
from nemo_pi.nemo.loaders import training_loader
from nemo_pi.parallel import groups

DEMO_STEPS = 200
"""Of `make demo`, all stages together."""
PI, LONGCE, MIXED = "PI", "PI, LongCE", "PI, mixed windows"
VARIANTS = (PI, LONGCE, MIXED)
MIXED_SHARE = 0.25
"""Of the samples, those that are cut into short documents."""


@dataclass(frozen=True)
class Cost:
    """What a step took; medians."""

    seconds: float
    """By the clock."""
    cpu_seconds: float
    """Of this process alone, which is what counts beside other work."""


class WeighingEngine(MegatronEngine):
    """Scores each label of a batch that holds ``weights`` by its weight; the tokens are counted as before."""

    def _run(self, batch: Batch, forward_only: bool) -> float:
        weights_BS = batch.get("weights")
        if weights_BS is None:
            return super()._run(batch, forward_only)
        rows = {name: value for name, value in batch.items() if name != "weights"}
        rows["loss_mask"] = rows["loss_mask"] * weights_BS
        size, length = self.settings.micro_batch_size, self.settings.rotary_length
        assert size == len(weights_BS) and bool(batch["loss_mask"].all()), "one forward pass, all scored"
        return self._mean_loss(
            engines._schedule(self.modules, rows, _forward_step, size, length, forward_only=forward_only)
        )


def _forward_step(data_iterator: Iterator[MicroBatch], model: nn.Module) -> tuple[Tensor, Any]:
    batch = next(data_iterator)
    loss_sum = model(**batch.inputs, labels=batch.labels, loss_mask=batch.loss_mask)
    return loss_sum, partial(loss_report, torch.ones_like(batch.loss_mask))


def before_last_stage(folder: Path) -> Path:
    """The checkpoint of `make demo` that its last stage began from, in its folder of results."""
    done = sum(POSITION_INTERPOLATION.steps_of_stages(DEMO_STEPS)[:-1])
    return folder / POSITION_INTERPOLATION.key / "checkpoints" / f"step_{done:08}"


def stage_of_demo(
    folder: Path, number: int, *, steps: int, seed: int, rows: int | None = None
) -> ResolvedRun:
    """One stage of `make demo`, with another number of steps.

    Args:
        folder: the demo's results, where its data lies.
        number: of the stage, from 0.
        steps: optimizer steps.
        seed: of the samples' order; the demo's own is 1234.
        rows: samples of a step; None: the demo's.
    """
    return _resolved(folder, number, steps, seed, rows, skips=True)


@cache
def _data_of_demo(folder: Path) -> dict[Stage, Prepared]:
    """Written anew, as it was; once for all trainings."""
    return prepare_samples([POSITION_INTERPOLATION], folder, DEMO_STEPS)


def _resolved(
    folder: Path, number: int, steps: int, seed: int, rows: int | None, *, skips: bool
) -> ResolvedRun:
    method, stage = POSITION_INTERPOLATION, f"stages.{number}"
    words = [
        *overrides(method, _data_of_demo(folder), folder, DEMO_STEPS),
        f"model.seed={seed}",
        f"{stage}.max_steps={steps}",
    ]
    if rows is not None:
        words += [f"{stage}.global_batch_size={rows}", f"{stage}.micro_batch_size={rows}"]
    if not skips:
        words = [word.replace("pose: paper, ", "") for word in words]
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose("extend_context", words)
    return resolve_stages(cfg, world_size=1, summary=read_summary(BASE_MODEL))[number]


class _ShortDocuments:
    """Puts short documents in the place of some samples.

    Samples that skip are replaced by contiguous text of their data; whole ones are cut.
    """

    def __init__(self, folder: Path, run: ResolvedRun) -> None:
        self._share, self._seen, self._done = MIXED_SHARE, 0, 0
        self._texts: Iterator[Batch] | None = None
        if run.pose is not None:
            plain = _resolved(folder, run.stage.number, run.max_steps, run.seed + 1, None, skips=False)
            self._texts = iter(training_loader(plain, plain.stage.samples_before))

    def put_into(self, batch: Batch) -> None:
        """In place; so many of all samples so far, whatever their number in a step."""
        self._seen += len(batch["tokens"])
        due = int(self._seen * self._share)
        others = next(self._texts) if self._texts is not None and due > self._done else {}
        for row in range(due - self._done):
            for name, values in others.items():
                batch[name][row] = values[row]
            cut_row(batch, row)
        self._done = due


def train(run: ResolvedRun, variant: str, start: Path, exported: Path, folder: Path) -> Cost:
    """Train a stage and write the model as a Hugging Face folder.

    Args:
        run: from `stage_of_demo`.
        variant: PI, LONGCE or MIXED.
        start: checkpoint that it begins from.
        exported: the folder to write.
        folder: the demo's results.
    """
    groups.ensure_process_group()
    groups.initialize(run.parallel, run.seed)
    engine = WeighingEngine(run.engine)
    load_checkpoint_weights(engine, read_summary(start))
    engine.start_training()
    scorer, longce, times = MegatronScorer(engine, variant), LongCE(), []
    short = _ShortDocuments(folder, run) if variant == MIXED else None
    steps = zip(range(run.max_steps), training_loader(run, run.stage.samples_before), strict=False)
    for step, batch in steps:
        started = time.perf_counter(), time.process_time()
        if short is not None:
            short.put_into(batch)
        elif variant == LONGCE:
            batch["weights"] = longce.weights(scorer, batch)
        engine.set_lr(run.schedule.at(step))
        engine.forward_backward(batch)
        engine.step()
        times.append((time.perf_counter() - started[0], time.process_time() - started[1]))
    export_engine(engine, run, exported)
    return Cost(*(statistics.median(values) for values in zip(*times, strict=True)))
