"""Train the demo model's tokenizer: byte-level BPE of 2,048 entries, every digit a token of its own.

Deterministic: the same bundled text gives the same files. Run it as ``python -m demo.train_tokenizer``;
the result, a folder that transformers' AutoTokenizer reads, ships in demo/model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from demo.corpus import MODEL, read_documents
from demo.make_passkeys import template_text
from nemo_pi.cli.parser import Parser

VOCAB_SIZE = 2048
END_OF_TEXT = "<|endoftext|>"  # token 0: ends every document
# Often enough that each word of the template gets a token of its own; otherwise the passkey task
# would spend a short window on spelling.
TEMPLATE_REPEATS = 3000


def training_text() -> Iterator[str]:
    """Yield the bundled training documents, then the passkey template."""
    for document in read_documents("train"):
        yield from document.text.split("\n")
    for _ in range(TEMPLATE_REPEATS):
        yield template_text()


def train() -> Tokenizer:
    """Return a lossless byte-level BPE tokenizer.

    Digits are split off before the byte-level pattern runs, so a space in front of a number is always a
    token by itself: ``" 12345"`` is six tokens, whether it stands in a document or is encoded alone.
    """
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # every byte, so that any text encodes
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and the two small files that transformers reads beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT}
    config = {
        **special,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 512,
        "clean_up_tokenization_spaces": False,
    }
    for name, content in (("tokenizer_config.json", config), ("special_tokens_map.json", special)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Train and save."""
    parser = Parser(description="train the demo model's tokenizer")
    parser.add_argument("--output", type=Path, default=MODEL)
    args = parser.parse_args()
    tokenizer = train()
    save(tokenizer, args.output)
    print(f"{args.output}: {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
