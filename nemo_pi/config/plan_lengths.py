"""The plan's rows about documents by length: each class's part of the text, and of what is read of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from nemo_pi.config.plan_model import Rows
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.data.documents import DocumentReader
from nemo_pi.data.indexed import read_index
from nemo_pi.data.length_weights import LengthWeights, parse_length_weights
from nemo_pi.data.splits import SPLITS, Blend, parse_data_prefix, parse_splits, split_documents
from nemo_pi.errors import NemoPiError
from nemo_pi.units import short

Numbers = NDArray[np.float64]
_TRAIN = 0


def length_rows(run: ResolvedRun) -> Rows:
    """A row for each class of lengths; none without weights, or where the data is not there yet."""
    weights = parse_length_weights(run.data.length_weights)
    if weights is None:
        return []
    counted = tokens_by_class(run, weights)
    if counted is None:
        return []
    (text, read), total = counted, run.max_steps * run.tokens_per_step
    rows = [("by length", "documents of so many tokens, how often a pass reads them")]
    for label, times, before, after in zip(weights.labels(), weights.weights, text, read, strict=True):
        value = f"× {times:g}: {before:.0%} of the text, {after:.0%} of what is read"
        rows.append((f"  {label}", f"{value}, {short(round(after * total))} tokens"))
    return rows


def tokens_by_class(run: ResolvedRun, weights: LengthWeights) -> tuple[Numbers, Numbers] | None:
    """Each class's part of the training text and of what is read of it; corpora count by their weights.

    Indices alone are read. Positions, packing and the cut at a sample's end leave the parts as they are.
    """
    try:
        corpora = _corpora(run)
        if corpora is None:
            return None
        blend, lengths = corpora
        text = sum(
            share * _parts(weights.tokens(each)) for share, each in zip(blend.weights, lengths, strict=True)
        )
        read = sum(
            share * _parts(weights.tokens(each[weights.chosen(each, (run.data.seed or 0, _TRAIN, number))]))
            for number, (share, each) in enumerate(zip(blend.weights, lengths, strict=True))
        )
    except (NemoPiError, OSError):  # a plan may be made where the data is not; training says what is wrong
        return None
    return np.asarray(text), np.asarray(read)


def _corpora(run: ResolvedRun) -> tuple[Blend, list[NDArray[np.int64]]] | None:
    """The blend that is trained on, and the tokens of every document of each corpus's part for training."""
    prefixes = parse_data_prefix(run.data.data_prefix)
    named = isinstance(prefixes, Mapping)
    blend = prefixes.get(SPLITS[_TRAIN]) if isinstance(prefixes, Mapping) else prefixes
    if blend is None:
        return None
    lengths = []
    for prefix in blend.prefixes:
        index = read_index(prefix)
        count = len(index.document_indices) - 1
        part = (0, count) if named else split_documents(count, parse_splits(run.data.splits_string))[_TRAIN]
        lengths.append(DocumentReader(index, part).lengths)
    return blend, lengths


def _parts(tokens: NDArray[np.int64]) -> Numbers:
    return tokens / max(1, int(tokens.sum()))
