"""Which pass keys are to be looked for: lengths, depths, trials, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.passkey_result import k_max_rule
from nemo_pi.evaluation.passkey_text import PasskeyDocument, TextTokenizer, passkey_document
from nemo_pi.evaluation.tasks.base import at_each_length
from nemo_pi.units import plural

MOST_ANSWER_TOKENS = 7
"""Of an answer: a mark where the word begins, the space and five digits, each a token of its own."""


@dataclass(frozen=True)
class PasskeyPlan:
    """Which documents are tried; `num_tokens` says what it costs before anything is computed."""

    lengths: tuple[int, ...]
    """Tokens of the documents, answer included; kept ascending, each once."""
    depths: tuple[float, ...]
    """Where the passkey lies, 0 beginning to 1 end; kept ascending, each once."""
    num_trials: int
    """Documents of each length and depth."""
    seed: int
    """Of keys."""
    bos: bool = False
    """Whether documents begin with what begins a text for the tokenizer."""
    generate: bool = False
    """Whether answers are generated token by token instead of read off one pass."""

    def __post_init__(self) -> None:
        if not self.lengths or not self.depths or self.num_trials < 1:
            raise ConfigError(
                "passkey",
                required="at least one length, one depth and one trial",
                given=f"lengths {self.lengths}, depths {self.depths}, {self.num_trials} trials",
                fix="give e.g. lengths (512, 1024), depths (0, 0.5, 1) and 10 trials",
            )
        object.__setattr__(self, "lengths", tuple(sorted(set(self.lengths))))
        object.__setattr__(self, "depths", tuple(sorted(set(self.depths))))

    def documents(self, tokenizer: TextTokenizer, length: int) -> Iterator[tuple[int, PasskeyDocument]]:
        """Yield (index of the depth, document) for every trial at a length, each with a key of its own."""
        for i, depth in enumerate(self.depths):
            for trial in range(i * self.num_trials, (i + 1) * self.num_trials):
                yield i, passkey_document(tokenizer, length, trial, seed=self.seed, depth=depth, bos=self.bos)

    def calls(self, batch_tokens: int) -> list[tuple[int, int]]:
        """Return (rows, tokens of a row) of each call of the scorer that scores."""
        documents, found = len(self.depths) * self.num_trials, []
        for length in self.lengths:
            most = max(1, batch_tokens // length)
            # The last token is only a label.
            found += [(min(most, documents - first), length - 1) for first in range(0, documents, most)]
        return found

    def num_batches(self, batch_tokens: int) -> int:
        """Return the calls of the scorer with `batch_tokens` tokens in a batch."""
        return len(self.calls(batch_tokens))

    @property
    def num_tokens(self) -> int:
        """Tokens the model will read."""
        return sum(self.lengths) * len(self.depths) * self.num_trials

    @property
    def num_new_tokens(self) -> int:
        """Tokens the model will generate at most."""
        return MOST_ANSWER_TOKENS * self.num_documents if self.generate else 0

    @property
    def num_documents(self) -> int:
        """Documents of all lengths and depths."""
        return len(self.lengths) * len(self.depths) * self.num_trials

    @property
    def protocol(self) -> dict[str, Any]:
        """Name the measurement, so that no rate stands without it."""
        start = "after BOS" if self.bos else "no BOS"
        tried = at_each_length(plural(self.num_trials, "trial"), " and depth")
        protocol = {
            "name": "passkey",
            "summary": f"five random digits, exact match under greedy decoding, {tried}, {start}; "
            f"{k_max_rule(self.depths[0])}",
            "lengths": list(self.lengths),
            "depths": list(self.depths),
            "num_trials": self.num_trials,
            "seed": self.seed,
            "bos": self.bos,
        }
        if self.generate:
            protocol |= {"summary": f"generated token by token: {protocol['summary']}", "generate": True}
        return protocol
