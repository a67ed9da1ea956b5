"""Conversations as JSON lines hold them: messages, ShareGPT's conversations, or token ids with labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemo_pi.bounded.json_text import parse_json

NOT_SCORED = -100
"""Label of a token that is not learned, as PyTorch's and transformers' losses have it."""

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "observation": "tool",
}
"""ShareGPT's speakers whose role has another name in chat templates."""


@dataclass(frozen=True)
class Conversation:
    """What a template renders, in the form that `apply_chat_template` of transformers takes."""

    messages: list[dict[str, Any]]
    """Each with a role and, but for calls of tools, a content."""
    tools: list[Any] | None = None
    """Functions that the assistant may call; None: none."""


@dataclass(frozen=True)
class Labelled:
    """A conversation that someone else has tokenized."""

    ids: list[int]
    """Token ids."""
    labels: list[int]
    """The same ids, or NOT_SCORED."""


def read_conversation(record: Mapping[str, Any]) -> Conversation | Labelled:
    """What one line says.

    Args:
        record: its JSON object, with `messages`, `conversations`, or `input_ids` and `labels`.

    Raises:
        ValueError: in a user's words, what is wrong with it.
    """
    if "messages" in record:
        messages = [_message(entry, "role", "content") for entry in _list(record, "messages")]
    elif "conversations" in record:
        messages = [_turn(entry) for entry in _list(record, "conversations")]
    elif "input_ids" in record and "labels" in record:
        return _labelled(_list(record, "input_ids"), _list(record, "labels"))
    else:
        found = ", ".join(record) or "no keys"
        raise ValueError(f"`messages`, `conversations`, or `input_ids` with `labels`, but only {found}")
    system = record.get("system")
    if isinstance(system, str) and system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return Conversation(messages, _tools(record.get("tools")))


def _list(record: Mapping[str, Any], key: str) -> list[Any]:
    if not isinstance(record[key], list) or not record[key]:
        raise ValueError(f"a list with something in it under {key!r}, not {type(record[key]).__name__}")
    found: list[Any] = record[key]
    return found


def _turn(entry: Any) -> dict[str, Any]:
    """A turn of ShareGPT, which calls role and content `from` and `value`; some files have both spellings."""
    if isinstance(entry, dict) and "from" not in entry and "role" in entry:
        return _message(entry, "role", "content")
    message = _message(entry, "from", "value")
    return {**message, "role": _ROLES.get(message["role"], message["role"])}


def _message(entry: Any, role: str, content: str) -> dict[str, Any]:
    if not isinstance(entry, dict) or not isinstance(entry.get(role), str):
        raise ValueError(f"messages with a text under {role!r}")
    text = entry.get(content)
    if isinstance(text, list) and all(isinstance(part, dict) and "text" in part for part in text):
        text = "".join(str(part["text"]) for part in text)
    if not isinstance(text, str) and not (text is None and entry.get("tool_calls")):
        raise ValueError(f"messages with a text under {content!r}, not {type(text).__name__}")
    others = {key: value for key, value in entry.items() if key not in (role, content) and value is not None}
    return {**others, "role": entry[role], "content": text}


def _tools(given: Any) -> list[Any] | None:
    """The tools, which ShareGPT's files hold as JSON within a string."""
    if isinstance(given, str):
        given = parse_json(given.encode("utf-8", "replace")) if given.strip() else None
    if given is not None and not isinstance(given, list):
        raise ValueError(f"a list under 'tools', not {type(given).__name__}")
    return given or None


def _labelled(ids: list[Any], labels: list[Any]) -> Labelled:
    if not all(type(entry) is int for entry in (*ids, *labels)):
        raise ValueError("whole numbers under 'input_ids' and 'labels'")
    if len(ids) != len(labels):
        raise ValueError(f"as many labels as input_ids, not {len(labels)} for {len(ids)}")
    for place, (token, label) in enumerate(zip(ids, labels, strict=True)):
        if label not in (token, NOT_SCORED):
            # Shifted labels, as some loaders keep them, would train every answer one token off.
            raise ValueError(f"labels that repeat input_ids or are {NOT_SCORED}: labels[{place}] is {label}")
    return Labelled(ids, labels)
