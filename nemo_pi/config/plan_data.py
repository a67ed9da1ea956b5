"""The plan's rows about data: what is read, how often, and what becomes of its documents."""

from __future__ import annotations

from nemo_pi.config.plan_model import Rows
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.data.indexed import num_tokens
from nemo_pi.data.splits import parse_data_prefix, parse_splits
from nemo_pi.errors import NemoPiError
from nemo_pi.units import short


def data_rows(run: ResolvedRun) -> Rows:
    """Corpora, how many tokens of them are trained on (where the files are there), and documents."""
    reading = _reading(run)
    return [("data", _data(run)), *([] if reading is None else [reading]), ("documents", _documents(run))]


def _data(run: ResolvedRun) -> str:
    prefix = run.data.data_prefix
    if not prefix:
        return "none given"
    if isinstance(prefix, dict):
        return "; ".join(f"{split}: {_listed(part)}" for split, part in prefix.items())
    return f"{_listed(prefix)}, split {run.data.splits_string}"


def _reading(run: ResolvedRun) -> tuple[str, str] | None:
    """Tokens of the training split and how often the run reads them; None where that cannot be seen yet.

    By sizes of files alone. Splits are made by documents, and packed rows are padded: hence "about".
    """
    try:
        prefixes = parse_data_prefix(run.data.data_prefix)
        blend = prefixes.get("train") if isinstance(prefixes, dict) else prefixes
        share = 1.0 if isinstance(prefixes, dict) else parse_splits(run.data.splits_string)[0]
        sizes = [share * num_tokens(prefix) for prefix in blend.prefixes] if blend else []
    except (NemoPiError, OSError):  # a plan may be made where the data is not; training says what is wrong
        return None
    if blend is None or not all(sizes):
        return None
    wanted = run.max_steps * run.tokens_per_step
    times = [wanted * weight / size for weight, size in zip(blend.weights, sizes, strict=True)]
    few, many = f"{min(times):.3g}", f"{max(times):.3g}"
    often = f"{many} times" if few == many else f"{few} to {many} times, by corpus"
    return "training text", f"about {short(sum(sizes))} tokens, read {often}"


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
