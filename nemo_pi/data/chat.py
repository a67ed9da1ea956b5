"""A conversation as tokens, and which of them the assistant wrote, by the tokenizer's own chat template.

The template runs in transformers' sandbox, which reaches no file, no module and no attribute that begins with
an underscore. Templates that mark what the assistant writes (`{% generation %}`) are believed. For others the
conversation is rendered as far as each answer: what an answer adds to the text is the answer, its end-of-turn
token included, as a model has to write it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_pi.data.conversations import NOT_SCORED, Conversation, Labelled
from nemo_pi.data.tokenizer import HuggingFaceTokenizer, Tokenizer
from nemo_pi.errors import ConfigError

ASSISTANT = "assistant"
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_ASIDE = "\ue000aside\ue001"
"""Stands in for an answer to see what the template writes around it: characters that no text has."""


@dataclass(frozen=True)
class Chat:
    """A conversation as tokens."""

    ids_S: NDArray[np.int32]
    """Token ids."""
    scored_S: NDArray[np.uint8]
    """1 where the assistant wrote the token, else 0."""


class ChatEncoder:
    """Renders and tokenizes conversations.

    Args:
        tokenizer: a Hugging Face one with a chat template and offsets.
        append_eod: end with the end-of-document id where the template does not.

    Raises:
        ConfigError: the tokenizer has no template, or cannot say where its tokens stand in a text.
    """

    def __init__(self, tokenizer: Tokenizer, *, append_eod: bool = False) -> None:
        template = None
        if isinstance(tokenizer, HuggingFaceTokenizer):
            self._tokenizer: Any = tokenizer.transformers_tokenizer
            template = self._tokenizer.chat_template
        if template is None or not self._tokenizer.is_fast:
            lacks = "no chat template" if template is None else "no offsets (it is not a fast one)"
            raise ConfigError(
                "--chat",
                required="a tokenizer with a chat template, in a folder with tokenizer.json",
                given=f"{tokenizer.name}, which has {lacks}",
                fix="give the folder of the model's instruct version as --tokenizer-model",
            )
        self._end = tokenizer.eod_id if append_eod else None

    def __call__(self, conversation: Conversation | Labelled) -> Chat:
        """Its tokens.

        Raises:
            ValueError: in a user's words, why the template cannot render it, or why its answers cannot be
                told from the rest.
        """
        if isinstance(conversation, Labelled):
            scored = np.array(conversation.labels) != NOT_SCORED
            return self._ended(np.array(conversation.ids), scored, conversation.labels[-1] != NOT_SCORED)
        try:
            if _MARKS.search(self._tokenizer.get_chat_template(tools=conversation.tools)):
                ids, scored = self._marked(conversation)
            else:
                ids, scored = self._by_prefixes(conversation)
        except ValueError:
            raise
        except Exception as error:  # a template may fail in any way, by its own raise_exception, too
            raise ValueError(f"messages that the chat template renders: {error}") from error
        return self._ended(ids, scored, conversation.messages[-1]["role"] == ASSISTANT)

    def _ended(self, ids: NDArray[Any], scored: NDArray[Any], answered: bool) -> Chat:
        if self._end is not None and self._end not in ids[-2:]:  # some templates write a newline behind it
            ids, scored = np.append(ids, self._end), np.append(scored, answered)
        return Chat(ids.astype(np.int32), scored.astype(np.uint8))

    def _marked(self, conversation: Conversation) -> tuple[NDArray[Any], NDArray[Any]]:
        found = self._tokenizer.apply_chat_template(
            conversation.messages,
            tools=conversation.tools,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        return np.array(found["input_ids"]), np.array(found["assistant_masks"], dtype=bool)

    def _by_prefixes(self, conversation: Conversation) -> tuple[NDArray[Any], NDArray[Any]]:
        text = self._render(conversation, conversation.messages)
        spans = [
            self._span(conversation, text, place)
            for place, message in enumerate(conversation.messages)
            if message["role"] == ASSISTANT
        ]
        tokens = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        scored = np.zeros(len(tokens["input_ids"]), dtype=bool)
        starts, ends = np.array(tokens["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
        for first, last in spans:
            scored |= (starts < last) & (ends > first)
        return np.array(tokens["input_ids"]), scored

    def _span(self, conversation: Conversation, text: str, place: int) -> tuple[int, int]:
        """Where answer `place` begins and ends in the rendered text, in characters."""
        messages = conversation.messages
        asked = self._render(conversation, messages[:place]) if place else ""
        before = self._render(conversation, messages[:place], answers=True) if place else ""
        through = self._render(conversation, messages[: place + 1])
        # Some templates know no prompt to generate from: who speaks would be learned with what is said.
        if before == asked or not text.startswith(before):
            before = self._around(conversation, text, messages, place)[0]
        if through.startswith(before) and text.startswith(through):
            end = len(through)
        else:
            # Templates that show an answer otherwise once it is not the last (reasoning is left out).
            rest = self._around(conversation, text, messages, place)[1]
            closing = self._around(conversation, through, messages[: place + 1], place)[1]
            if not rest.startswith(closing):
                raise ValueError(_UNCLEAR.format(place))
            end = len(text) - len(rest) + len(closing)
        # What stands between turns is no longer written by the model.
        return len(before), max(len(text[:end].rstrip()), len(before))

    def _around(
        self, conversation: Conversation, text: str, messages: list[dict[str, Any]], place: int
    ) -> tuple[str, str]:
        """What the template writes before and behind an answer's content, as it stands in `text`."""
        aside = [*messages[:place], {**messages[place], "content": _ASIDE}, *messages[place + 1 :]]
        before, _, behind = self._render(conversation, aside).partition(_ASIDE)
        if not text.startswith(before) or not text.endswith(behind):
            raise ValueError(_UNCLEAR.format(place))
        return before, behind

    def _render(
        self, conversation: Conversation, messages: list[dict[str, Any]], *, answers: bool = False
    ) -> str:
        """The text of some messages; with `answers` up to where the model would begin to write."""
        return str(
            self._tokenizer.apply_chat_template(
                messages, tools=conversation.tools, tokenize=False, add_generation_prompt=answers
            )
        )


_UNCLEAR = (
    "answers that can be told from the rest: message {} is rendered otherwise alone than within its "
    "conversation; a template with {{% generation %}} says where they are"
)
