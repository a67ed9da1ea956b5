"""Data loaders of a run: one item is this rank's shard of one global batch."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, Dataset

from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.data.collate import collate
from nemo_pi.data.datasets import build_datasets
from nemo_pi.data.sampler import ConsecutiveSampler
from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.parallel import groups


def check_data(run: ResolvedRun) -> None:
    """Opens all data that the run will read and, unless the YAML says otherwise, looks at every token id.

    Raises:
        ConfigError, DataError: as data.build_datasets.
    """
    _datasets(run, (_training_samples(run), _validation_samples(run), 0), check_token_ids=True)


def training_loader(run: ResolvedRun, consumed_samples: int) -> DataLoader[Any]:
    """Batches of optimizer steps, beginning behind `consumed_samples`."""
    dataset = _datasets(run, (_training_samples(run), 0, 0))[0]
    assert dataset is not None, "a training split was asked for"
    return _loader(run, dataset, consumed_samples)


def validation_loader(run: ResolvedRun) -> DataLoader[Any] | None:
    """Batches of one validation pass, or None where validation is off or there is no such data."""
    wanted = _validation_samples(run)
    dataset = _datasets(run, (0, wanted, 0))[1] if wanted else None
    return None if dataset is None else _loader(run, dataset, 0)


def _training_samples(run: ResolvedRun) -> int:
    return run.max_steps * run.global_batch_size


def _validation_samples(run: ResolvedRun) -> int:
    batches = run.trainer.get("limit_val_batches", 0)
    return batches * run.global_batch_size if isinstance(batches, int) and batches > 0 else 0


def _datasets(
    run: ResolvedRun, num_samples: tuple[int, int, int], check_token_ids: bool = False
) -> tuple[Any, Any, Any]:
    """The run's datasets. Ids are looked at by check_data alone: reading a large corpus takes minutes."""
    data = run.data_mapping()
    data["check_token_ids"] = data["check_token_ids"] and check_token_ids
    return build_datasets(
        data,
        seq_length=run.training_length,
        vocab_size=run.shape.vocab_size,
        seed=run.seed,
        num_samples=num_samples,
        eod_id=_end_of_document(run),
        pose=run.pose,
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
