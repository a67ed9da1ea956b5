"""From the ``data`` section of a YAML to the train, validation and test datasets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_pi.data.blend import BlendedDataset
from nemo_pi.data.indexed import CorpusIndex, has_scored, open_indexed, read_index, scored_prefix
from nemo_pi.data.length_weights import parse_length_weights
from nemo_pi.data.packing import PackedDataset
from nemo_pi.data.position_ids import PlainPositions, PosePositions
from nemo_pi.data.samples import SampleDataset, SampleRules, SampleStream
from nemo_pi.data.splits import SPLITS, Blend, parse_data_prefix, parse_splits, split_documents
from nemo_pi.errors import ConfigError, DataError
from nemo_pi.rope.pose_spec import PoseSpec
from nemo_pi.units import plural

if TYPE_CHECKING:  # Megatron imports slowly, and check_datasets does without it
    from megatron.core.datasets.indexed_dataset import IndexedDataset

Datasets = tuple[BlendedDataset | None, BlendedDataset | None, BlendedDataset | None]
"""Train, validation and test; None where no sample is asked for, or where the YAML gives validation or test
no corpus or a share of 0."""


def build_datasets(
    data_cfg: Mapping[str, Any],
    *,
    seq_length: int,
    vocab_size: int | None,
    seed: int,
    num_samples: tuple[int, int, int],
    eod_id: int | None = None,
    pose: PoseSpec | None = None,
) -> Datasets:
    """Open, check and lay out the corpora that ``model.data`` names.

    Args:
        data_cfg: keys data_prefix, splits_string, seed, length_weights, pack_documents, reset_position_ids,
            reset_attention_mask, eod_mask_loss, check_token_ids, answer_only_loss; all but data_prefix may be
            missing. Others are ignored.
        seq_length: S, tokens per sample (S + 1 are read).
        vocab_size: token ids must be smaller; None, or ``check_token_ids: false``, leaves that unchecked.
        seed: decides the order; ``data.seed`` goes before it.
        num_samples: samples that the run may consume of train, validation and test. Sample i does not
            depend on it.
        eod_id: end-of-document id, for eod_mask_loss and to pad with.
        pose: positions (and texts) that skip through a longer window, in every split; None: plain ones.

    Raises:
        ConfigError: a key of the wrong form, or training asked for and nothing to train on.
        DataError: missing, damaged or foreign files, ids outside the vocabulary, too few tokens.
    """
    layout = check_datasets(
        data_cfg,
        seq_length=seq_length,
        vocab_size=vocab_size,
        seed=seed,
        num_samples=num_samples,
        eod_id=eod_id,
        pose=pose,
        open_corpus=open_indexed,
    )
    train, validation, test = (
        None if part is None else BlendedDataset(part[1], part[0].weights, wanted)
        for part, wanted in zip(layout, num_samples, strict=True)
    )
    return train, validation, test


Layout = list[tuple[Blend, list[SampleStream]] | None]
"""Blend and streams of each split; None for one that is not asked for."""
_Open = Callable[[str, int | None], Any]


def check_datasets(
    data_cfg: Mapping[str, Any],
    *,
    seq_length: int,
    vocab_size: int | None,
    seed: int,
    num_samples: tuple[int, int, int],
    eod_id: int | None = None,
    pose: PoseSpec | None = None,
    open_corpus: _Open = read_index,
) -> Layout:
    """Raises what build_datasets would, without laying out a blend and, as it stands, without Megatron.

    Args:
        data_cfg, seq_length, vocab_size, seed, num_samples, eod_id, pose: as for build_datasets.
        open_corpus: opens a corpus, given its prefix and the vocabulary's size; reads its index alone.

    Returns:
        What build_datasets makes blends of, where corpora are opened for it.
    """
    _check_end(eod_id, vocab_size)
    prefixes = parse_data_prefix(data_cfg.get("data_prefix"))
    packed = bool(data_cfg.get("pack_documents", False))
    rules = _rules(data_cfg, eod_id, pose, packed)
    # Of training alone: validation goes on measuring the text as it is.
    weighted = replace(rules, length_weights=parse_length_weights(data_cfg.get("length_weights")))
    chosen_seed = _seed(data_cfg, seed)
    opener = _Opener(None if data_cfg.get("check_token_ids") is False else vocab_size, open_corpus)
    shares = parse_splits(data_cfg.get("splits_string"))
    built: Layout = []
    for split, wanted in enumerate(num_samples):
        blend = prefixes.get(SPLITS[split]) if isinstance(prefixes, dict) else prefixes
        share = 1.0 if isinstance(prefixes, dict) else shares[split]
        if blend is None or wanted <= 0 or share == 0:
            _refuse_no_training(split, wanted)
            built.append(None)
            continue
        parts, rules_here = [], weighted if SPLITS[split] == "train" else rules
        for corpus, prefix in enumerate(blend.prefixes):
            indexed = opener.open(prefix)
            scored = opener.scored(prefix, data_cfg.get("answer_only_loss"), packed)
            ranges = _ranges(indexed, prefixes, shares)
            key = (chosen_seed, split, corpus)
            if ranges[split][0] == ranges[split][1]:
                raise _no_document(indexed, SPLITS[split], shares)
            try:
                parts.append(_stream(indexed, ranges[split], seq_length, key, rules_here, packed, scored))
            except DataError as error:  # a stream does not know its split, which decides what to change
                raise DataError(
                    f"{error.field}, {SPLITS[split]}",
                    required=error.required,
                    given=error.given,
                    fix=error.fix,
                ) from None
        built.append((blend, parts))
    return built


def _check_end(eod_id: int | None, vocab_size: int | None) -> None:
    """The end-of-document id pads packed rows, so that the model must have it."""
    if eod_id is not None and vocab_size is not None and eod_id >= vocab_size:
        raise ConfigError(
            "model.tokenizer",
            required=f"a tokenizer whose end-of-document id is below model.vocab_size {vocab_size}",
            given=f"one that ends documents with id {eod_id}",
            fix="give the tokenizer of the checkpoint (null takes it from there)",
        )


def _refuse_no_training(split: int, wanted: int) -> None:
    if SPLITS[split] == "train" and wanted > 0:
        raise ConfigError(
            "model.data.data_prefix, model.data.splits_string",
            required="something to train on",
            given="no corpus, or a share of 0, for train",
            fix="name a corpus under model.data.data_prefix.train, or give train a share above 0",
        )


class _Opener:
    """Opens and checks each corpus once, however many splits read it."""

    def __init__(self, vocab_size: int | None, open_corpus: _Open) -> None:
        self.vocab_size, self.open_corpus = vocab_size, open_corpus
        self._open: dict[str, Any] = {}

    def open(self, prefix: str) -> Any:
        if prefix not in self._open:
            self._open[prefix] = self.open_corpus(prefix, self.vocab_size)
        return self._open[prefix]

    def scored(self, prefix: str, answers: bool | None, packed: bool) -> Any:
        """Which tokens of a corpus are learned; None: all of them.

        Args:
            prefix: of the corpus.
            answers: data.answer_only_loss.
            packed: data.pack_documents.
        """
        if answers is False or (answers is None and not has_scored(prefix)):
            return None
        if not has_scored(prefix):
            raise _no_answers(prefix)
        if not packed:
            raise _not_packed(prefix)
        found = self.open_corpus(scored_prefix(prefix), None)
        if not np.array_equal(found.sequence_lengths, self.open(prefix).sequence_lengths):
            raise DataError(
                f"{scored_prefix(prefix)}.idx",
                required=f"as many tokens in each conversation as {prefix}.idx has",
                given="others",
                fix="write both pairs again with examples/preprocess_data.py --chat, or copy all four files",
            )
        return found


def _no_answers(prefix: str) -> DataError:
    return DataError(
        "model.data.answer_only_loss",
        required=f"{scored_prefix(prefix)}.idx and .bin, which say what the assistant wrote",
        given="true, and no such files",
        fix="model.data.answer_only_loss=null learns all of a corpus without them; or write the corpus with "
        "examples/preprocess_data.py --chat",
    )


def _not_packed(prefix: str) -> ConfigError:
    return ConfigError(
        "model.data.pack_documents",
        required=f"true for conversations, which {prefix} holds: each is read whole, seeing only itself",
        given=False,
        fix="model.data.pack_documents=true; or, to learn all of it, model.data.answer_only_loss=false",
    )


def _seed(data_cfg: Mapping[str, Any], seed: int) -> int:
    own = data_cfg.get("seed")
    chosen = seed if own is None else own
    if isinstance(chosen, bool) or not isinstance(chosen, int) or chosen < 0:
        raise ConfigError(
            "model.data.seed",
            required="a whole number, 0 or more",
            given=repr(chosen),
            fix="model.data.seed=1234",
        )
    return chosen


def _rules(
    data_cfg: Mapping[str, Any], eod_id: int | None, pose: PoseSpec | None, packed: bool
) -> SampleRules:
    eod_mask_loss = bool(data_cfg.get("eod_mask_loss", False))
    if eod_mask_loss and eod_id is None:
        raise ConfigError(
            "model.data.eod_mask_loss",
            required="a tokenizer with an end-of-document id",
            given="a tokenizer without one",
            fix="model.data.eod_mask_loss=false, or use a tokenizer with an end-of-sequence token",
        )
    reset = packed or bool(data_cfg.get("reset_position_ids", False))
    return SampleRules(
        positions=PlainPositions(reset) if pose is None else PosePositions(pose, reset),
        moved_text=pose if pose is not None and pose.moves_text else None,
        reset_attention_mask=bool(data_cfg.get("reset_attention_mask", False)),
        eod_mask_loss=eod_mask_loss,
        eod_id=eod_id,
    )


def _ranges(
    indexed: IndexedDataset | CorpusIndex,
    prefixes: dict[str, Blend] | Blend,
    shares: tuple[float, float, float],
) -> list[tuple[int, int]]:
    num_documents = len(indexed.document_indices) - 1
    if isinstance(prefixes, dict):
        return [(0, num_documents)] * 3
    return split_documents(num_documents, shares)


def _stream(
    indexed: IndexedDataset | CorpusIndex,
    documents: tuple[int, int],
    seq_length: int,
    key: tuple[int, ...],
    rules: SampleRules,
    packed: bool,
    scored: IndexedDataset | CorpusIndex | None,
) -> SampleStream:
    if packed:
        return PackedDataset(indexed, documents, seq_length=seq_length, key=key, rules=rules, scored=scored)
    return SampleDataset(indexed, documents, seq_length=seq_length, key=key, rules=rules)


def _no_document(
    indexed: IndexedDataset | CorpusIndex, split: str, shares: tuple[float, float, float]
) -> DataError:
    number, asked = len(indexed.document_indices) - 1, [share > 0 for share in shares]
    fix = "name each split's files in model.data.data_prefix, or add documents"
    if number >= sum(asked):
        # As many parts as documents: rounding then takes none from any split.
        first = asked.index(True)
        parts = [int(wanted) for wanted in asked]
        parts[first] += number - sum(asked)
        fix = f"model.data.splits_string={str(parts).replace(' ', '')}, or {fix}"
    return DataError(
        "model.data.splits_string",
        required=f"at least one document of {indexed.path_prefix} for {split}",
        given=f"none of its {plural(number, 'document')}",
        fix=fix + ("; trainer.limit_val_batches=0 validates never" if split == "validation" else ""),
    )
