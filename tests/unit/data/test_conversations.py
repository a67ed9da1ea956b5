"""What a line of a conversation file means, in each of its spellings."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_pi.data.conversations import Conversation, Labelled, read_conversation

USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
SHARED = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER, ANSWER]},
        {"conversations": SHARED, "id": "x"},
        {"conversations": [USER, ANSWER]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, ANSWER], "tools": ""},
    ],
)
def test_spellings_of_one_conversation(record: dict[str, Any]) -> None:
    assert read_conversation(record) == Conversation([USER, ANSWER])


def test_a_system_prompt_beside_the_turns_comes_first_unless_there_is_one() -> None:
    system = {"role": "system", "content": "s"}
    assert read_conversation({"conversations": SHARED, "system": "s"}) == Conversation([system, USER, ANSWER])
    assert read_conversation({"messages": [system, USER], "system": "t"}) == Conversation([system, USER])


def test_calls_of_tools_are_kept_and_tools_may_be_json_in_a_text() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    found = read_conversation({"messages": [USER, call], "tools": '[{"name": "f"}]'})
    assert found == Conversation([USER, call], [{"name": "f"}])


def test_labels_of_minus_100_are_not_learned() -> None:
    assert read_conversation({"input_ids": [5, 6], "labels": [-100, 6]}) == Labelled([5, 6], [-100, 6])


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"text": "a"}, "but only text"),
        ({"messages": []}, "a list with something in it"),
        ({"messages": "a"}, "not str"),
        ({"messages": ["a"]}, "a text under 'role'"),
        ({"messages": [{"role": "user"}]}, "a text under 'content', not NoneType"),
        ({"conversations": [{"from": "human", "value": 3}]}, "a text under 'value', not int"),
        ({"messages": [USER], "tools": {"a": 1}}, "a list under 'tools'"),
        ({"messages": [USER], "tools": "["}, "Expecting value"),
        ({"input_ids": [1, 2], "labels": [2, -100]}, r"labels\[0\] is 2"),
        ({"input_ids": [1, 2], "labels": [1]}, "as many labels"),
        ({"input_ids": [1, 2.0], "labels": [1, 2]}, "whole numbers"),
    ],
)
def test_what_is_no_conversation_is_said(record: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_conversation(record)
