"""Loss on packed conversations: the engine's against a naive loop over each conversation in transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from nemo_pi.data.collate import collate
from nemo_pi.data.datasets import build_datasets
from nemo_pi.data.preprocess import PreprocessConfig, preprocess
from tests.unit.data.chats import PLAIN, TWO_TURNS, save_tokenizer, write_lines
from tests.unit.engine.loops import engine_of
from tests.unit.model.models import SHAPE, transformers_model

pytestmark = pytest.mark.usefixtures("one_rank")

VOCABULARY = 2052
CHATS = [
    TWO_TURNS,
    [{"role": "user", "content": "Aye?"}, {"role": "assistant", "content": "Aye, aye, sir."}],
    [*TWO_TURNS[2:], {"role": "user", "content": "Thanks."}],
]


def naive(model: Any, tokenizer: Any) -> float:
    """The mean loss of all answers: each conversation alone, -100 where the assistant does not write."""
    total, count = 0.0, 0
    for messages in CHATS:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        pieces: list[tuple[str, bool]] = []
        for message in messages:
            answers = message["role"] == "assistant"
            pieces.append((f"<|im_start|>{message['role']}\n", False))
            pieces += [(message["content"] + "<|im_end|>", answers), ("\n", False)]
        assert "".join(piece for piece, _ in pieces) == text
        ids, labels = [], []
        for piece, answers in pieces:
            tokens = tokenizer(piece, add_special_tokens=False).input_ids
            ids += tokens
            labels += tokens if answers else [-100] * len(tokens)
        # Pieces and the whole text are the same tokens: each piece ends with a token of its own.
        assert ids == tokenizer(text, add_special_tokens=False).input_ids
        with torch.no_grad():
            loss = model(torch.tensor([ids]), labels=torch.tensor([labels])).loss
        learned = sum(label != -100 for label in labels[1:])
        total, count = total + float(loss) * learned, count + learned
    return total / count


def test_packed_conversations_have_the_loss_of_each_alone(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path / "tokenizer", PLAIN)
    write_lines(tmp_path / "chats.jsonl", [{"messages": chat} for chat in CHATS])
    tokenizer = {"library": "huggingface", "model": str(folder)}
    made = preprocess(
        PreprocessConfig(str(tmp_path / "chats.jsonl"), str(tmp_path / "out"), tokenizer, chat=True)
    )
    data = {"data_prefix": made.prefixes, "splits_string": "1,0,0", "pack_documents": True}
    train = build_datasets(
        data, seq_length=128, vocab_size=VOCABULARY, seed=1, num_samples=(2, 0, 0), eod_id=0
    )[0]
    assert train is not None
    batch = collate([train[0], train[1]][: train.parts[0].samples_per_epoch])
    model = transformers_model(vocab_size=VOCABULARY, max_position_embeddings=128)
    model.save_pretrained(tmp_path / "model")
    engine = engine_of(tmp_path / "model", shape=replace(SHAPE, vocab_size=VOCABULARY))
    loss = engine.forward_backward(batch)
    assert loss == pytest.approx(naive(model.eval(), AutoTokenizer.from_pretrained(folder)), rel=2e-6)
