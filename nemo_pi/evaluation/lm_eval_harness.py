"""lm-eval's tasks: loaded with their data, counted, and asked of a scorer.

Only imported where lm-eval is installed. `simple_evaluate`, its front door, gives results on the first of a
node's ranks alone; here every rank asks and gets them. Seeds and the order of what draws are its own, since
tasks shuffle choices and pick solved examples by them.
"""

from __future__ import annotations

import os
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.evaluator import evaluate
from torch import Tensor

from nemo_pi.errors import DataError, quoted
from nemo_pi.evaluation.generation import Generated, GenerationRequest
from nemo_pi.evaluation.lm_eval_model import ScorerModel
from nemo_pi.evaluation.random_numbers import random_numbers_kept
from nemo_pi.evaluation.scorer import Scorer, TokenScores
from nemo_pi.evaluation.tasks.base import Cost, TaskContext

_RESAMPLES = 1000
"""Of the questions, behind the standard error of what is no mean (perplexity, F1, BLEU, …): known to 2% then,
within seconds. lm-eval's 100,000 take minutes and know it no better for our purpose. Means have a formula."""
_ONE_PROCESS = "DISABLE_MULTIPROC"
"""lm-eval's: unless it is set, each rank would fork a process for every core to resample."""


@dataclass(frozen=True)
class Harness:
    """Tasks of lm-eval, not loaded yet."""

    manager: Any
    """lm_eval.tasks.TaskManager."""
    tasks: tuple[str, ...]
    """Names of tasks, groups or tags."""
    num_fewshot: int | None
    """Solved examples before each question, except where a task rules them out; None: as the task says."""
    limit: int | None
    """Questions of each task at most; None: all."""

    def count(self, context: TaskContext) -> Cost:
        """Load the tasks, and count what they will ask of a model.

        Raises:
            DataError: they cannot be loaded. ConfigError: they do not fit the context.
        """
        counter = _Counter()
        model = ScorerModel(counter, context, lambda tokens: None)
        with random_numbers_kept():
            try:
                requests = self._requests()
            except Exception as error:  # datasets, the network, a task's own Python: each raises its own
                raise DataError(
                    "tasks",
                    required="tasks whose data and packages are at hand, or can be downloaded",
                    given=f"{type(error).__name__}: {quoted(error)}",
                    fix="load their data once where there is a network (HF_HOME names the cache), or "
                    "tasks.lm_eval=false",
                ) from error
            for kind, asked in requests.items():
                getattr(model, kind)(asked)
        return Cost(counter.batches, counter.read, counter.generated)

    def ask(self, scorer: Scorer, context: TaskContext, done: Callable[[int], None]) -> dict[str, Any]:
        """Ask every question, and return what lm-eval's `evaluate` does.

        Args:
            scorer: the model.
            context: its tokenizer and windows.
            done: called with the tokens of each batch.
        """
        with random_numbers_kept(), _in_one_process(), redirect_stdout(sys.stderr):
            found: dict[str, Any] = evaluate(
                lm=ScorerModel(scorer, context, done),
                task_dict=self._loaded(),
                limit=self.limit,
                bootstrap_iters=_RESAMPLES,
                log_samples=False,
            )
        return found

    def _loaded(self) -> Any:
        random.seed(DEFAULT_RANDOM_SEED)
        np.random.seed(DEFAULT_OTHER_SEED)
        torch.manual_seed(DEFAULT_OTHER_SEED)
        loaded = self.manager.load(list(self.tasks))
        for task in loaded["tasks"].values():
            own = task.get_config("num_fewshot")
            if own is None or (self.num_fewshot is not None and own != 0):
                task.set_config(key="num_fewshot", value=self.num_fewshot or 0)
            task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
        return loaded

    def _requests(self) -> dict[str, list[Any]]:
        """What `evaluate` will ask, by the model's method that is asked."""
        requests: dict[str, list[Any]] = defaultdict(list)
        for task in self._loaded()["tasks"].values():
            task.build_all_requests(limit=self.limit, rank=0, world_size=1)
            for instance in task.instances:
                requests[instance.request_type] += [instance] * instance.repeats
        return requests


class _Counter:
    """A scorer that computes nothing and counts what it is asked."""

    name = "counter"

    def __init__(self) -> None:
        self.batches = self.read = self.generated = 0

    def score(self, tokens_BS: Tensor, labels_BS: Tensor, position_ids_BS: Tensor) -> TokenScores:
        self.batches += 1
        self.read += tokens_BS.numel()
        return TokenScores(torch.zeros(tokens_BS.shape), torch.zeros(tokens_BS.shape, dtype=torch.bool))

    def generate(self, prompts: Sequence[Sequence[int]], request: GenerationRequest) -> list[Generated]:
        self.batches += 1
        self.read += sum(map(len, prompts))
        self.generated += len(prompts) * request.max_new_tokens
        return [Generated((), "") for _ in prompts]


@contextmanager
def _in_one_process() -> Iterator[None]:
    before = os.environ.get(_ONE_PROCESS)
    os.environ[_ONE_PROCESS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ONE_PROCESS]
        else:
            os.environ[_ONE_PROCESS] = before
