"""Data loaders of a run: one item is this rank's shard of one global batch."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, Dataset

from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.data.collate import collate
from nemo_pi.data.datasets import build_datasets, check_datasets
from nemo_pi.data.sampler import ConsecutiveSampler
from nemo_pi.data.tokenizer import build_tokenizer, check_present
from nemo_pi.errors import NemoPiError


def check_data(run: ResolvedRun) -> None:
    """Checks all data that the run will read and, unless the YAML says otherwise, looks at every token id.

    Megatron is not imported for it; nor is transformers in a dry run, which leaves the tokenizer unread.

    Raises:
        ConfigError, DataError: as data.build_datasets.
    """
    samples = (_training_samples(run), _validation_samples(run), 0)
    check_datasets(run.data_mapping(), **_arguments(run, samples), eod_id=_end_of_document(run))


def check_tokenizer(run: ResolvedRun) -> None:
    """Checks the tokenizer alone, where no data is given yet.

    Raises:
        ConfigError: naming what it lacks.
    """
    _end_of_document(run)


def training_loader(run: ResolvedRun, consumed_samples: int) -> DataLoader[Any]:
    """Batches of optimizer steps, beginning behind `consumed_samples` of the run."""
    dataset = _datasets(run, (_training_samples(run), 0, 0))[0]
    assert dataset is not None, "a training split was asked for"
    # Of this stage's data, which may be other than the data of the stages before.
    return _loader(run, dataset, run.stage.first_sample + consumed_samples - run.stage.samples_before)


def validation_loader(run: ResolvedRun) -> DataLoader[Any] | None:
    """Batches of one validation pass, or None where validation is off or there is no such data."""
    wanted = _validation_samples(run)
    dataset = _datasets(run, (0, wanted, 0))[1] if wanted else None
    return None if dataset is None else _loader(run, dataset, 0)


def _training_samples(run: ResolvedRun) -> int:
    return run.stage.first_sample + run.max_steps * run.global_batch_size


def _validation_samples(run: ResolvedRun) -> int:
    batches = run.trainer.get("limit_val_batches", 0)
    return batches * run.global_batch_size if isinstance(batches, int) and batches > 0 else 0


def _datasets(run: ResolvedRun, num_samples: tuple[int, int, int]) -> tuple[Any, Any, Any]:
    """The run's datasets. Ids are looked at by check_data alone: reading a large corpus takes minutes."""
    data = {**run.data_mapping(), "check_token_ids": False}
    return build_datasets(data, **_arguments(run, num_samples), eod_id=_end_of_document(run))


def _arguments(run: ResolvedRun, num_samples: tuple[int, int, int]) -> dict[str, Any]:
    return {
        "seq_length": run.training_length,
        "vocab_size": run.shape.vocab_size,
        "seed": run.seed,
        "num_samples": num_samples,
        "pose": run.pose,
    }


def _end_of_document(run: ResolvedRun) -> int | None:
    given = run.tokenizer
    if given is None or given.library is None:
        return None
    try:
        if run.dry_run:  # any id of the vocabulary will do: no sample is read
            check_present(given.library, given.model, given.type)
            return 0
        return build_tokenizer(given.library, given.model, given.type).eod_id
    except NemoPiError as error:
        # The same checks serve the flags of preprocessing, which are not under `model`.
        raise error.respelled({"tokenizer": "model.tokenizer"}) from error


def _loader(run: ResolvedRun, dataset: Dataset[Any], consumed: int) -> DataLoader[Any]:
    # Imported here: Megatron imports slowly, and a dry run checks data without it.
    from nemo_pi.parallel import groups

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
