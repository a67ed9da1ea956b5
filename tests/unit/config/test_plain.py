"""Plain values: interpolations as OmegaConf resolves them, as long as they come to an end."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from nemo_pi.config.plain import plain
from nemo_pi.errors import ConfigError

SOUND = """
a: 1
b: ${a}
c: x ${a} and ${d.e}
d: {e: "${.f}", f: [1, "${a}"], g: "${..b}"}
h: ${d}
i: ${d.f[1]}
j: ${oc.env:NOTHING_OF_THIS_NAME,${a}}
k: ???
l: ${oc.select:m,3}
n: ${d.${o}}
o: e
"""


def test_four_keys_may_be_made_by_others() -> None:
    cfg = OmegaConf.create("n: x\nb: {x: 7}\n" + "".join(f"a{n}: ${{b.${{n}}}}\n" for n in range(4)))
    assert plain(cfg) == OmegaConf.to_container(cfg, resolve=True)


def test_values_are_those_of_omegaconf() -> None:
    cfg = OmegaConf.create(SOUND)
    assert plain(cfg) == OmegaConf.to_container(cfg, resolve=True)


LISTS = "".join(f"a{n}: ['${{a{n - 1}}}', '${{a{n - 1}}}']\n" for n in range(1, 30))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: ${b}\n", "key 'b' not found"),
        ("a: ${a}\n", "back to itself"),
        ("a: {b: '${a}'}\n", "back to itself"),
        ("a: ${b}\nb: ${a}\n", "back to itself"),
        ("".join(f"a{n}: ${{a{n + 1}}}\n" for n in range(60)) + "a60: 1\n", "in a chain"),
        ("a0: xx\n" + "".join(f"a{n}: ${{a{n - 1}}}${{a{n - 1}}}\n" for n in range(1, 30)), "written out"),
        ("a0: [1]\n" + LISTS, "written out"),
        ("n: 1\n" + "".join(f"a{n}: ${{b.${{n}}}}\n" for n in range(9)), "made by another"),
    ],
)
def test_what_has_no_end_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plain(OmegaConf.create(text))
