"""Stages as runs one behind the other: all that is wrong in one message, and where each begins."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from nemo_pi.config.resolved import ResolvedRun, Stage
from nemo_pi.config.stages import StageKeys, respelled
from nemo_pi.errors import ConfigError, ConfigErrors, Together


def resolved_together(
    entries: Sequence[StageKeys], resolvers: Sequence[Callable[[], ResolvedRun]]
) -> list[ResolvedRun]:
    """What each stage comes to.

    Args:
        entries: of `stages`.
        resolvers: one for each; it raises a ConfigError or returns the stage as a run.

    Raises:
        ConfigError: of all stages together; what is wrong with all of them alike is said once, by its key of
            the run.
    """
    runs, found = [], []
    for entry, resolve in zip(entries, resolvers, strict=True):
        try:
            runs.append(resolve())
        except ConfigError as error:
            each = error.errors if isinstance(error, ConfigErrors) else (error,)
            found += [(entry, one) for one in each]
    times = Counter(str(error) for _, error in found)
    together, said = Together(), set()
    for entry, one in found:
        shared = len(entries) > 1 and times[str(one)] == len(entries)
        if not shared:
            together.keep(respelled(one, entry.number))
        elif str(one) not in said:
            said.add(str(one))
            together.keep(one)
    together.stop()
    return runs


def in_order(entries: Sequence[StageKeys], runs: Sequence[ResolvedRun]) -> tuple[ResolvedRun, ...]:
    """The same stages, each knowing what lies before it.

    Data goes on by tokens where a stage before has read the same corpora in the same order. With samples of
    one length no sample comes twice; with another length windows are cut anew, and the stage begins as far
    in its own order as the stages before have come in theirs, rounded up to a whole sample.
    """
    steps = samples = 0
    tokens_read: Counter[str] = Counter()
    placed: list[ResolvedRun] = []
    for entry, run in zip(entries, runs, strict=True):
        _check_apart(run, entry, placed)
        text = _text_of(run)
        if entry.reset_data:
            tokens_read[text] = 0
        stage = Stage(
            number=entry.number,
            count=len(entries),
            first_step=steps,
            samples_before=samples,
            first_sample=-(-tokens_read[text] // run.training_length),
            reset_optimizer=entry.reset_optimizer,
        )
        placed.append(replace(run, stage=stage))
        steps += run.max_steps
        samples += run.max_steps * run.global_batch_size
        tokens_read[text] += run.max_steps * run.tokens_per_step
    return tuple(placed)


def _check_apart(run: ResolvedRun, entry: StageKeys, before: Sequence[ResolvedRun]) -> None:
    """Two stages would write one folder."""
    for other in before:
        for key in ("hf_path", "peft_path"):
            path = getattr(run.export, key)
            if path is not None and path == getattr(other.export, key):
                raise ConfigError(
                    f"{entry.name}.export.{key}",
                    required=f"another folder than that of stages[{other.stage.number}]",
                    given=path,
                    fix=f"stages.{entry.number}.export.{key}={path}-{entry.number + 1}",
                )


def _text_of(run: ResolvedRun) -> str:
    """What decides which text is read, and in which order."""
    data = run.data
    return json.dumps(
        [data.data_prefix, data.splits_string, data.seed, data.length_weights], sort_keys=True, default=str
    )
