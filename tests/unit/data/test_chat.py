"""Which tokens of a conversation are learned: against the texts of the answers and transformers' own mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_pi.data.chat import Chat, ChatEncoder
from nemo_pi.data.conversations import Conversation, Labelled
from nemo_pi.data.tokenizer import ByteTokenizer, HuggingFaceTokenizer
from nemo_pi.errors import ConfigError
from tests.unit.data.chats import MARKED, PLAIN, STRICT, THINKING, TRIMMING, TWO_TURNS, save_tokenizer

END = "<|im_end|>"


def encoder(folder: Path, template: str | None, **options: Any) -> ChatEncoder:
    return ChatEncoder(HuggingFaceTokenizer(save_tokenizer(folder, template)), **options)


def learned(encode: ChatEncoder, chat: Chat) -> list[str]:
    """Texts of the runs of learned tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], chat.scored_S, [0]]).astype(int)))
    tokenizer = encode._tokenizer
    return [tokenizer.decode(chat.ids_S[a:b]) for a, b in edges.reshape(-1, 2)]


@pytest.mark.parametrize("template", [PLAIN, MARKED, THINKING, TRIMMING, STRICT])
def test_answers_and_their_ends_are_learned_and_nothing_else(tmp_path: Path, template: str) -> None:
    encode = encoder(tmp_path, template)
    chat = encode(Conversation(TWO_TURNS))
    first, last = "Captain Ahab did, to the end." + END, "Ishmael." + END
    if template == THINKING:
        last = "<think>\n\n</think>\n\n" + last
    assert learned(encode, chat) == [first, last]
    # The tokens are those that transformers makes of the conversation.
    whole = encode._tokenizer.apply_chat_template(TWO_TURNS, tokenize=True, return_dict=True)
    assert chat.ids_S.tolist() == whole["input_ids"]


def test_a_marked_template_learns_what_transformers_marks(tmp_path: Path) -> None:
    encode = encoder(tmp_path, MARKED)
    theirs = encode._tokenizer.apply_chat_template(
        TWO_TURNS, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert encode(Conversation(TWO_TURNS)).scored_S.tolist() == theirs["assistant_masks"]


def test_an_answer_that_the_question_quotes_is_not_mixed_up_with_it(tmp_path: Path) -> None:
    encode = encoder(tmp_path, THINKING)
    quoting = [
        {"role": "user", "content": "Ishmael." + " Say again: Ishmael."},
        {"role": "assistant", "content": "Ishmael."},
        {"role": "user", "content": "Ishmael."},
        {"role": "assistant", "content": "  Ishmael. ☃ "},
    ]
    found = learned(encode, encode(Conversation(quoting)))
    assert found == ["Ishmael." + END, "<think>\n\n</think>\n\n  Ishmael. ☃ " + END]


def test_the_end_of_a_document_is_learned_behind_an_answer_alone(tmp_path: Path) -> None:
    encode = encoder(tmp_path, PLAIN, append_eod=True)
    chat = encode(Conversation(TWO_TURNS))
    assert (chat.ids_S[-1], chat.scored_S[-1]) == (0, 1)
    asked = encode(Conversation(TWO_TURNS[:3]))
    assert (asked.ids_S[-1], asked.scored_S[-1]) == (0, 0)
    done = encode(Labelled([7, 0], [7, 0]))
    assert done.ids_S.tolist() == [7, 0]


def test_labels_of_someone_else_are_taken_as_they_are(tmp_path: Path) -> None:
    chat = encoder(tmp_path, PLAIN)(Labelled([7, 8, 9], [-100, 8, 9]))
    assert (chat.ids_S.tolist(), chat.scored_S.tolist()) == ([7, 8, 9], [0, 1, 1])


@pytest.mark.parametrize(
    ("template", "messages", "said"),
    [
        (STRICT, TWO_TURNS[1:], "roles must alternate"),
        (PLAIN, [{"role": "assistant", "content": None, "tool_calls": [1]}], "renders: "),
        ("{{ messages.__class__.__mro__ }}", TWO_TURNS, "renders: .*(unsafe|undefined)"),
        (
            "{% for m in messages %}{{ loop.length ~ m.content ~ m.content }}{% endfor %}",
            TWO_TURNS,
            "message 1 is rendered",
        ),
    ],
)
def test_what_cannot_be_rendered_or_told_apart_is_said(
    tmp_path: Path, template: str, messages: list[Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        encoder(tmp_path, template)(Conversation(messages))


def test_a_tokenizer_without_a_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no chat template"):
        encoder(tmp_path, None)
    with pytest.raises(ConfigError, match="byte, which has no chat template"):
        ChatEncoder(ByteTokenizer())
