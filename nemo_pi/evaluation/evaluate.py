"""The whole evaluation of one model: perplexity by context length and passkey retrieval, as one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.passkey import PasskeyPlan, passkey_retrieval
from nemo_pi.evaluation.passkey_text import TextTokenizer, passkey_document, required_bos, shortest_length
from nemo_pi.evaluation.perplexity import PerplexityPlan, Progress, run_plan
from nemo_pi.evaluation.row import EvaluationRow
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.evaluation.windows import WHOLE_DOCUMENT, doubling_lengths


@dataclass(frozen=True)
class EvaluationSettings:
    """What to measure. Rows that are to be compared must share everything but, perhaps, `name`."""

    original_window: int
    """Tokens the base model was pretrained on."""
    target_window: int
    """Tokens to evaluate up to."""
    name: str | None = None
    """What the report calls the model; None: the scorer's name."""
    measure_perplexity: bool = True
    """False leaves perplexity out; `documents` is then not looked at."""
    lengths: tuple[int, ...] | None = None
    """Context lengths for perplexity, in tokens, at most `target_window`; None: original window, twice that,
    … target window."""
    stride: int = 256
    """Labels per window after a document's first, in tokens."""
    scored: str = WHOLE_DOCUMENT
    """"whole_document" as in the paper, or "full_context", see `windows.plan_spans`."""
    max_tokens: int | None = None
    """Labels scored at each length, over all documents; None: all. Length L reads max_tokens * L / stride
    tokens."""
    measure_passkey: bool = True
    """False leaves passkey retrieval out."""
    passkey_lengths: tuple[int, ...] | None = None
    """Document lengths in tokens, at most `target_window`; None: `num_passkey_lengths` evenly spaced ones up
    to the target window, without those too short for a document."""
    num_passkey_lengths: int = 32
    """How many lengths None means; 32 in the paper."""
    passkey_depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Where the passkey lies, 0 beginning to 1 end. k_max counts the shallowest only, so keep 0 among
    them."""
    passkey_trials: int = 10
    """Documents per cell; 10 in the paper."""
    seed: int = 1234
    """Of the passkey documents."""
    add_bos: bool = False
    """True begins every window and document with the tokenizer's beginning-of-text token."""
    batch_tokens: int = 8192
    """Tokens per batch; a longer window is a batch of its own. The results do not depend on it but for
    rounding."""

    def __post_init__(self) -> None:
        doubling_lengths(self.original_window, self.target_window)  # raises on impossible windows
        for field in ("lengths", "passkey_lengths"):
            for length in getattr(self, field) or ():
                if not 2 <= length <= self.target_window:
                    raise ConfigError(
                        field,
                        required=f"from 2 tokens to the target window, {self.target_window}",
                        given=length,
                        mend="leave it out or raise target_window",
                    )
        for field in ("num_passkey_lengths", "batch_tokens"):
            if getattr(self, field) < 1:
                raise ConfigError(field, required="≥ 1", given=getattr(self, field), mend="give at least 1")

    @property
    def perplexity_lengths(self) -> tuple[int, ...]:
        """The context lengths for perplexity, ascending."""
        return self.lengths or doubling_lengths(self.original_window, self.target_window)

    def resolve_passkey_lengths(self, tokenizer: TextTokenizer) -> tuple[int, ...]:
        """Return the document lengths, ascending."""
        if self.passkey_lengths is not None:
            return self.passkey_lengths
        least, count = shortest_length(tokenizer, self.add_bos), self.num_passkey_lengths
        lengths = (self.target_window * i // count for i in range(1, count + 1))
        return tuple(length for length in lengths if length >= least)


def evaluate(
    scorer: Scorer,
    documents: Sequence[Sequence[int]],
    tokenizer: TextTokenizer,
    settings: EvaluationSettings,
    progress: Progress | None = None,
) -> EvaluationRow:
    """Measure one model and return its row of the report.

    Args:
        scorer: the model.
        documents: held-out documents as token ids of `tokenizer`, each longer than the longest context
            length.
        tokenizer: the model's.
        settings: what to measure.
        progress: called with what is measured, tokens read, and tokens to read in this and the other part.

    Raises:
        DataError: documents that are empty or too short, or passkey lengths too short for a document.
        ConfigError: settings that contradict each other or the tokenizer.
        Both come before anything is computed.
    """
    bos_id = required_bos(tokenizer) if settings.add_bos else None
    text_plan = _perplexity_plan(documents, settings, bos_id) if settings.measure_perplexity else None
    key_plan = _passkey_plan(tokenizer, settings) if settings.measure_passkey else None
    text_tokens = text_plan.num_tokens if text_plan else 0
    total = text_tokens + (key_plan.num_tokens if key_plan else 0)
    perplexity = grid = None
    if text_plan:
        perplexity = run_plan(
            scorer, text_plan, batch_tokens=settings.batch_tokens, progress=_within(progress, 0, total)
        )
    if key_plan:
        grid = passkey_retrieval(
            scorer,
            tokenizer,
            key_plan,
            batch_tokens=settings.batch_tokens,
            progress=_within(progress, text_tokens, total),
        )
    plans = {"perplexity": text_plan, "passkey": key_plan}
    return EvaluationRow(
        name=settings.name or scorer.name,
        original_window=settings.original_window,
        target_window=settings.target_window,
        perplexity=perplexity.by_length if perplexity else {},
        passkey=grid,
        k_max=grid.k_max() if grid else None,
        protocol={name: plan.protocol for name, plan in plans.items() if plan},
    )


def _perplexity_plan(
    documents: Sequence[Sequence[int]], settings: EvaluationSettings, bos_id: int | None
) -> PerplexityPlan:
    return PerplexityPlan.build(
        documents,
        settings.perplexity_lengths,
        stride=settings.stride,
        scored=settings.scored,
        max_tokens=settings.max_tokens,
        bos_id=bos_id,
    )


def _passkey_plan(tokenizer: TextTokenizer, settings: EvaluationSettings) -> PasskeyPlan:
    lengths, depths = settings.resolve_passkey_lengths(tokenizer), settings.passkey_depths
    plan = PasskeyPlan(lengths, depths, settings.passkey_trials, settings.seed, settings.add_bos)
    for depth in plan.depths:  # so that what cannot be built stops here, not after minutes of perplexity
        passkey_document(tokenizer, plan.lengths[0], 0, seed=plan.seed, depth=depth, bos=plan.bos)
    return plan


def _within(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Shift a part's progress by what was done before it, out of the total of all parts."""
    if progress is None:
        return None
    return lambda what, done, _: progress(what, before + done, total)
