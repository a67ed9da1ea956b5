"""YAML by number and depth of its values, aliases written out."""

from __future__ import annotations

import pytest

from nemo_pi.bounded.yaml_text import MOST_LEVELS, MOST_NODES, check_yaml


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\n",
        "",
        "# nothing\n",
        "a: {b: [1, 2]}\n",
        "\ufeffa: 1\n",
        "a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n",
        "a: ü\n",
        "a: &x 1\nb: *x\n",
    ],
)
def test_sound_texts_pass(text: str) -> None:
    assert check_yaml(text.encode()) == text.removeprefix("\ufeff")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\n\tb: 2\n", "line 2, column 1: a tab"),
        ("a: [1\n", "line 2"),
        ("a: 'x\n", "line 2"),
        ("- a\n- b\n", "no `key: value` lines"),
        ("just text\n", "no `key: value` lines"),
        ("a: b: c\n", "line 1"),
        ("a: &x [*x]\n", r"\*x at line 1"),
        ("a: " + "[" * 30 + "]" * 30, f"more than {MOST_LEVELS} nested levels"),
        ("a: \x07\n", ""),
        ("a: [" + "x," * (MOST_NODES + 1) + "]\n", "values, aliases written out"),
    ],
)
def test_broken_texts_are_refused_with_their_line(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_yaml(text.encode())


def test_other_encodings_are_named() -> None:
    for data in ("a: ü".encode("latin-1"), "a: 1".encode("utf-16")):
        with pytest.raises(ValueError, match="UTF-8"):
            check_yaml(data)


def test_aliases_count_as_what_they_stand_for() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 4)]
    check_yaml("\n".join(lines).encode())  # some ten thousand
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(4, 6)]
    with pytest.raises(ValueError, match="at line 5"):
        check_yaml("\n".join(lines).encode())


def test_anchors_and_tags_can_be_forbidden() -> None:
    for text in ("a: &x 1\n", "a: !!int 1\n", "a: !x 1\n"):
        with pytest.raises(ValueError, match="line 1"):
            check_yaml(text.encode(), anchors=False, tags=False)
