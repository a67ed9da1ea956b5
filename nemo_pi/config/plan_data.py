"""The plan's rows about data: what is read, how often, and what becomes of its documents."""

from __future__ import annotations

from pathlib import Path

from nemo_pi.config.plan_lengths import length_rows
from nemo_pi.config.plan_model import Rows
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.data.indexed import has_scored, num_tokens, read_header, read_index, scored_prefix
from nemo_pi.data.splits import Blend, parse_data_prefix, parse_splits
from nemo_pi.data.token_file import TokenFile
from nemo_pi.errors import NemoPiError
from nemo_pi.units import short

_LOOKED_AT = 1 << 22
"""Tokens of a corpus that the plan reads to say how many are learned."""


def data_rows(run: ResolvedRun) -> Rows:
    """Corpora, how many tokens of them are trained on (where the files are there), and documents."""
    read = [("data", _data(run)), _reading(run), *length_rows(run), _conversations(run)]
    return [row for row in (*read, ("documents", _documents(run))) if row is not None]


def _data(run: ResolvedRun) -> str:
    prefix = run.data.data_prefix
    if not prefix:
        return "none given"
    if isinstance(prefix, dict):
        return "; ".join(f"{split}: {_listed(part)}" for split, part in prefix.items())
    return f"{_listed(prefix)}, split {run.data.splits_string}"


def _training_blend(run: ResolvedRun) -> Blend | None:
    prefixes = parse_data_prefix(run.data.data_prefix)
    return prefixes.get("train") if isinstance(prefixes, dict) else prefixes


def _reading(run: ResolvedRun) -> tuple[str, str] | None:
    """Tokens of the training split and how often the run reads them; None where that cannot be seen yet.

    By sizes of files alone. Splits are made by documents, and packed rows are padded: hence "about".
    """
    try:
        blend = _training_blend(run)
        named = isinstance(run.data.data_prefix, dict)
        share = 1.0 if named else parse_splits(run.data.splits_string)[0]
        sizes = [share * num_tokens(prefix) for prefix in blend.prefixes] if blend else []
    except (NemoPiError, OSError):  # a plan may be made where the data is not; training says what is wrong
        return None
    if blend is None or not all(sizes):
        return None
    if run.data.length_weights:  # how often depends on the document: the rows by length say it
        return "training text", f"about {short(sum(sizes))} tokens"
    wanted = run.max_steps * run.tokens_per_step
    times = [wanted * weight / size for weight, size in zip(blend.weights, sizes, strict=True)]
    few, many = f"{min(times):.3g}", f"{max(times):.3g}"
    often = f"{many} times" if few == many else f"{few} to {many} times, by corpus"
    return "training text", f"about {short(sum(sizes))} tokens, read {often}"


def _conversations(run: ResolvedRun) -> tuple[str, str] | None:
    """How many conversations there are, and which of their tokens are learned; None where there are none."""
    if run.data.answer_only_loss is False:
        return None
    try:
        prefixes = _training_blend(run)
        marked = [prefix for prefix in prefixes.prefixes if has_scored(prefix)] if prefixes else []
        lengths = [read_index(prefix).sequence_lengths for prefix in marked]
        learned = [_share_learned(prefix) for prefix in marked]
    except (NemoPiError, OSError):
        return None
    if not marked:
        return None
    number, long = (
        sum(map(len, lengths)),
        sum(int((part > run.training_length + 1).sum()) for part in lengths),
    )
    share = sum(part * size.sum() for part, size in zip(learned, lengths, strict=True))
    percent = 100 * share / sum(int(part.sum()) for part in lengths)
    out = f"; {long:,} of more than {run.training_length:,} tokens left out" if long else ""
    return "conversations", f"{number:,}, loss on answers alone ({percent:.0f}% of their tokens){out}"


def _share_learned(prefix: str) -> float:
    """Of a corpus' tokens, by its beginning."""
    path = scored_prefix(prefix)
    count = min(num_tokens(path), _LOOKED_AT)
    return float(TokenFile(f"{path}.bin", read_header(Path(f"{path}.idx")).dtype).read(0, count).mean())


def _documents(run: ResolvedRun) -> str:
    data = run.data
    if data.pack_documents:
        return "packed whole, each seeing only itself; padding is not scored"
    attention = "each seeing only itself" if data.reset_attention_mask else "seen across"
    moving = "running" if run.pose is None else "skipping"
    positions = "positions starting again with each" if data.reset_position_ids else f"positions {moving} on"
    return f"laid end to end, {attention}, {positions}"


def _listed(prefix: object) -> str:
    return " ".join(map(str, prefix)) if isinstance(prefix, list) else str(prefix)
