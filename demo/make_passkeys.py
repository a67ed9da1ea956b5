"""Make passkey documents for training mixes: a five-digit number hidden in filler, asked for at the end.

The text is the one that evaluation uses (nemo_pi/evaluation/passkey_text.py, after arXiv 2306.15595). About
half of the documents use its repeated filler and half use slices of the bundled training text, so a model
learns to find the number rather than the one sentence that is not filler. Everything follows from the seed::

    python -m demo.make_passkeys --tokens 2000000 --min-length 64 --max-length 500 --output passkey.jsonl
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from demo.corpus import MODEL, read_documents
from nemo_pi.cli.parser import Parser
from nemo_pi.evaluation.passkey_text import INSTRUCTION, NEEDLE, QUESTION, SENTENCES


def template_text() -> str:
    """Return one document's worth of the template's words (for training a tokenizer)."""
    return "\n".join([INSTRUCTION, " ".join(SENTENCES), NEEDLE.format(key="12345"), QUESTION])


Encode = Callable[[str], Sequence[int]]


def text_sentences(split: str = "train") -> list[str]:
    """Return the bundled text's sentences in reading order.

    Sentences with digits are left out, so that the pass key is the only number in its document.
    """
    return [
        sentence
        for document in read_documents(split)
        for paragraph in document.text.split("\n")
        for sentence in re.split(r"(?<=[.?!;:])\s", paragraph)
        if sentence and not re.search(r"\d", sentence)
    ]


class PasskeyMaker:
    """Writes passkey documents of a given length in tokens.

    Args:
        encode: text to token ids, adding no special tokens.
        sentences: sentences of real text, in reading order, for the other half of the fillers.
        text_share: share of the documents that are filled from ``sentences``.
        longest_sentence: sentences of more tokens than this are skipped.
    """

    def __init__(
        self, encode: Encode, sentences: Sequence[str], text_share: float = 0.5, longest_sentence: int = 40
    ) -> None:
        self.encode, self.sentences, self.text_share = encode, sentences, text_share
        self.longest_sentence = longest_sentence
        self.frame_tokens = len(encode(self._render([], 0, "12345")))
        self._lengths: dict[str, int] = {}  # measured on first use: most sentences are never drawn

    def document(self, num_tokens: int, rng: random.Random, *, early: bool = False) -> str:
        """Return a document of at most ``num_tokens`` tokens, question and answer included.

        It falls short by about a sentence of filler at most. The key's depth is uniform over the filler, or
        the square of that if it shall be ``early``: every second key then lies in the first quarter.
        A length below the frame's own (``frame_tokens``) gives the frame without filler.
        """
        key, depth = f"{rng.randrange(100000):05d}", rng.random() ** (2 if early else 1)
        filler = self._filler(num_tokens - self.frame_tokens, rng)
        while True:
            text = self._render(filler, round(depth * len(filler)), key)
            # A word that opens a line lacks its space and may take a token more than was counted.
            if not filler or len(self.encode(text)) <= num_tokens:
                return text
            filler.pop()

    @staticmethod
    def _render(filler: list[str], cut: int, key: str) -> str:
        parts = [INSTRUCTION, " ".join(filler[:cut]), NEEDLE.format(key=key), " ".join(filler[cut:])]
        return "\n".join([part for part in parts if part] + [f"{QUESTION} {key}"])

    def _filler(self, budget: int, rng: random.Random) -> list[str]:
        from_text = rng.random() < self.text_share
        source = self.sentences if from_text else SENTENCES
        position = rng.randrange(len(source)) if from_text else 0
        chosen: list[str] = [] if from_text else [_ragged_start(rng)]
        budget -= sum(self._length(sentence) for sentence in chosen)
        if budget < 0:
            return []
        while True:
            sentence = source[position % len(source)]
            position += 1
            length = self._length(sentence)
            if length > self.longest_sentence:
                continue
            budget -= length
            if budget < 0:
                return chosen
            chosen.append(sentence)

    def _length(self, sentence: str) -> int:
        """Tokens of a sentence with a space in front; that starts a new token, so counts add up."""
        if sentence not in self._lengths:
            self._lengths[sentence] = len(self.encode(" " + sentence))
        return self._lengths[sentence]


def _ragged_start(rng: random.Random) -> str:
    """The end of a round of the repeated filler: evaluation's documents begin in the middle of one, too."""
    words = " ".join(SENTENCES).split()
    return " ".join(words[rng.randrange(len(words)) :])


def generate(
    maker: PasskeyMaker, *, tokens: int, min_length: int, max_length: int, seed: int
) -> Iterator[str]:
    """Yield documents with lengths uniform in [min_length, max_length] until ``tokens`` are reached."""
    rng, total = random.Random(seed), 0
    while total < tokens:
        length = rng.randint(min_length, max_length)
        total += length
        yield maker.document(length, rng)


def main() -> None:
    """Write JSON lines with a ``text`` key."""
    from transformers import AutoTokenizer

    parser = Parser(description="make passkey documents for training mixes")
    parser.add_argument("--tokenizer", default=str(MODEL))
    parser.add_argument("--tokens", type=int, default=2_000_000, help="tokens in all")
    parser.add_argument("--min-length", type=int, default=64, help="tokens of the shortest document")
    parser.add_argument("--max-length", type=int, default=500, help="tokens of the longest document")
    parser.add_argument("--text-share", type=float, default=0.5, help="share filled with real text")
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer, trust_remote_code=False, local_files_only=True)
    backend = tokenizer.backend_tokenizer

    def encode(text: str) -> list[int]:
        return list(backend.encode(text, add_special_tokens=False).ids)

    maker = PasskeyMaker(encode, text_sentences(), args.text_share)
    span = {"min_length": args.min_length, "max_length": args.max_length}
    with args.output.open("w", encoding="utf-8") as lines:
        for text in generate(maker, tokens=args.tokens, seed=args.seed, **span):
            lines.write(json.dumps({"text": text}) + "\n")


if __name__ == "__main__":
    main()
