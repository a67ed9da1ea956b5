"""Data loaders of a run: one item is this rank's share of one global batch."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, Dataset

from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.data.collate import collate
from nemo_pi.data.datasets import build_datasets
from nemo_pi.data.sampler import ConsecutiveSampler
from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.parallel import groups


def training_loader(run: ResolvedRun, consumed_samples: int) -> DataLoader[Any]:
    """Batches of optimizer steps, beginning behind `consumed_samples`."""
    wanted = (run.max_steps * run.global_batch_size, 0, 0)
    dataset = _datasets(run, wanted)[0]
    assert dataset is not None, "a training split was asked for"
    return _loader(run, dataset, consumed_samples)


def validation_loader(run: ResolvedRun) -> DataLoader[Any] | None:
    """Batches of one validation pass, or None where validation is off or there is no such data."""
    batches = run.trainer.get("limit_val_batches", 0)
    if not isinstance(batches, int) or batches < 1:
        return None
    dataset = _datasets(run, (0, batches * run.global_batch_size, 0))[1]
    return None if dataset is None else _loader(run, dataset, 0)


def _datasets(run: ResolvedRun, num_samples: tuple[int, int, int]) -> tuple[Any, Any, Any]:
    return build_datasets(
        run.data_mapping(),
        seq_length=run.training_length,
        vocab_size=run.shape.vocab_size,
        seed=run.seed,
        num_samples=num_samples,
        eod_id=_end_of_document(run),
    )


def _end_of_document(run: ResolvedRun) -> int | None:
    if run.tokenizer is None or run.tokenizer.library is None:
        return None
    tokenizer = build_tokenizer(run.tokenizer.library, run.tokenizer.model, run.tokenizer.type)
    return tokenizer.eod_id


def _loader(run: ResolvedRun, dataset: Dataset[Any], consumed: int) -> DataLoader[Any]:
    replicas = groups.data_size()
    sampler = ConsecutiveSampler(
        total=len(dataset),  # type: ignore[arg-type]
        consumed=consumed,
        # One item of the loader is a whole step; the engine cuts it into micro-batches.
        micro_batch_size=run.micro_batch_size * run.num_micro_batches,
        dp_rank=groups.data_rank(),
        dp_size=replicas,
        global_batch_size=run.global_batch_size,
    )
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=run.data.num_workers)
