"""Methods by name: ours, other packages', and what happens where a package is broken, greedy or missing."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_pi.errors import CheckpointError, ConfigError
from nemo_pi.rope.hf import RECORD, from_hf, to_hf
from nemo_pi.rope.methods import registry
from nemo_pi.rope.spec import METHODS, ContextExtension
from nemo_pi.rope.tables import attention_factor, inverse_frequencies
from tests.plug_ins import install

ROOT = Path(__file__).resolve().parents[4]

SOURCE = """
from dataclasses import dataclass
from nemo_pi.rope.methods import plain
from nemo_pi.rope.methods.base import ScalingMethod

@dataclass(frozen=True)
class Cubed(ScalingMethod):
    name = "cubed"
    gain: float = 2.0

    def inverse_frequencies(self, rope, seq_len):
        return plain.inverse_frequencies(rope.rotary_dim, rope.base) / (rope.factor * self.gain)
"""


class Installer:
    """Installs a module that registers methods, and forgets them after the test."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch

    def __call__(self, source: str = SOURCE, module: str = "acme_rope", **entries: str) -> None:
        install(self.folder / module, self.monkeypatch, module, source, registry.PLUG_INS, entries)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    return Installer(tmp_path, monkeypatch)


def build(method: str = "cubed", **changes: Any) -> ContextExtension:
    values: dict[str, Any] = {"original_window": 512, "target_window": 4096, "head_dim": 16}
    return ContextExtension.build(method=method, **(values | changes))


def test_a_package_s_method_computes(installed: Installer) -> None:
    installed(cubed="Cubed")
    plain_F = inverse_frequencies(build("none"))
    assert torch.equal(inverse_frequencies(build()), plain_F / 16)
    assert torch.equal(inverse_frequencies(build(extra_args={"gain": 3})), plain_F / 24)
    assert build().is_scaled and build().factor == 8.0


def test_its_arguments_are_checked(installed: Installer) -> None:
    installed(cubed="Cubed")
    with pytest.raises(ConfigError, match=r"extra_args\.gian.*did you mean 'gain'"):
        build(extra_args={"gian": 3})
    with pytest.raises(ConfigError, match=r"extra_args\.gain.*finite number; given 'x'"):
        build(extra_args={"gain": "x"})


def test_nothing_is_imported_before_the_name_is_asked_for(installed: Installer) -> None:
    installed("raise RuntimeError('imported')", cubed="Cubed")
    build("yarn")
    assert "cubed" in registry.PLUG_INS.names()
    assert "acme_rope" not in sys.modules
    with pytest.raises(ConfigError, match="did you mean 'cubed'"):
        build("cubd")
    assert "acme_rope" not in sys.modules


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("raise RuntimeError('no GPU')", "Cubed", "RuntimeError: no GPU"),
        ("import a_module_that_is_not_there", "Cubed", "ModuleNotFoundError"),
        ("x = 1", "Cubed", "AttributeError"),
        ("Cubed = 1", "Cubed", "given 1"),
        (SOURCE.replace('"cubed"', '"other"'), "Cubed", "with the name 'other'"),
        (SOURCE.replace("(frozen=True)", ""), "Cubed", "cannot inherit non-frozen"),
    ],
)
def test_a_broken_package_is_named(installed: Installer, source: str, target: str, words: str) -> None:
    installed(source, cubed=target)
    with pytest.raises(ConfigError) as caught:
        build()
    assert caught.value.field == "method"
    assert words in str(caught.value)
    assert "acme_rope 1.2" in caught.value.required
    assert "uninstall acme_rope 1.2" in caught.value.fix


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("x.double()", r"torch\.float64 of shape \[8\]"),
        ("x[:3]", r"of shape \[3\]"),
        ("None", "AttributeError"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_frequencies_of_another_kind_are_refused(installed: Installer, returned: str, words: str) -> None:
    installed(SOURCE.replace("return", "x =") + f"        return {returned}\n", cubed="Cubed")
    with pytest.raises(ConfigError, match=rf"fp32 of shape \[8\] from cubed.*acme_rope 1\.2.*{words}"):
        inverse_frequencies(build())


@pytest.mark.parametrize("returned", ["None", "-1.0", "float('nan')", "1 / 0"])
def test_attention_factors_that_are_none_are_refused(installed: Installer, returned: str) -> None:
    source = f"{SOURCE}\n    def attention_scaling(self, rope, seq_len):\n        return {returned}\n"
    installed(source, cubed="Cubed")
    with pytest.raises(ConfigError, match=r"attention factor above 0 from cubed .*acme_rope 1\.2"):
        attention_factor(build())


def test_a_name_of_ours_is_refused(installed: Installer) -> None:
    installed(SOURCE.replace('"cubed"', '"yarn"'), yarn="Cubed")
    with pytest.raises(ConfigError, match=r"'yarn' from acme_rope 1\.2, which nemo_pi has already"):
        registry.check_available("yarn")
    assert build("yarn").scaling.__class__.__module__ == "nemo_pi.rope.methods.yarn"


def test_a_name_of_another_package_is_refused(installed: Installer) -> None:
    installed(cubed="Cubed")
    installed(module="second_rope", cubed="Cubed")
    with pytest.raises(ConfigError, match=r"'cubed' from \w+_rope 1\.2, which \w+_rope 1\.2 has already"):
        registry.check_available("cubed")


def test_a_checkpoint_names_the_package_that_is_missing(
    installed: Installer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as present:
        Installer(installed.folder, present)(cubed="Cubed")
        values = json.loads(json.dumps(build().to_dict()))
        assert ContextExtension.from_dict(values) == build()
    assert values["method_package"] == "acme_rope 1.2"
    with pytest.raises(ConfigError, match=r"install the package that registers it .*'acme_rope 1\.2' did"):
        ContextExtension.from_dict(values)
    assert "method_package" not in build("yarn").to_dict()


@pytest.mark.parametrize("name", ["acme_rope:Cubed", "os.system", "acme_rope", "__import__"])
def test_what_a_checkpoint_says_never_names_code(installed: Installer, name: str) -> None:
    installed("raise SystemExit('ran')", other="Cubed")
    with pytest.raises(ConfigError, match="required one of"):
        ContextExtension.from_dict({**build("yarn").to_dict(), "method": name, "method_package": name})
    config = {"max_position_embeddings": 64, "rope_parameters": {"rope_type": name, "factor": 2.0}}
    with pytest.raises(CheckpointError, match="rope_type"):
        from_hf(config, 16)
    assert "acme_rope" not in sys.modules


HF = """
    hf_types = ("cubed",)
"""


def test_export_is_the_method_s_to_decide(installed: Installer) -> None:
    installed(cubed="Cubed")
    with pytest.raises(ConfigError, match="transformers can compute"):
        to_hf(build())


def test_export_under_a_type_of_its_own_comes_back(
    installed: Installer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as present:
        Installer(installed.folder, present)(SOURCE + HF, cubed="Cubed")
        config = json.loads(json.dumps(to_hf(build())))
        assert config["rope_parameters"]["gain"] == 2.0
        assert from_hf(config, 16) == build()
        del config[RECORD]
        assert from_hf({**config, "original_max_position_embeddings": 512}, 16) == build()
        config[RECORD] = build().to_dict()
    with pytest.raises(CheckpointError, match=r"config\.json \(rope_type\).*'acme_rope 1\.2' did"):
        from_hf(config, 16)


AS_PLAIN = """
    def to_hf(self, rope):
        return {"rope_type": "default", "rope_theta": 3 * rope.base}
"""


def test_export_under_plain_entries_asks_for_its_package_where_that_is_missing(
    installed: Installer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, the entries would pass for a plain model of the whole window."""
    with monkeypatch.context() as present:
        Installer(installed.folder, present)(SOURCE + AS_PLAIN, cubed="Cubed")
        config = json.loads(json.dumps(to_hf(build())))
        assert from_hf(config, 16) == build()
    with pytest.raises(CheckpointError, match=rf"\({RECORD}\.method\).*'acme_rope 1\.2' did.*or delete"):
        from_hf(config, 16)
    del config[RECORD]
    assert from_hf(config, 16).method == "none"


# --- no other file asks for a method by name ---

NAMES = {*METHODS, "su", "pi"}
ORDINARY = {"none", "linear"}
"""Names that are words of other things as well; they are looked for in comparisons only."""


PROTOCOLS = {
    "evaluator_plan.py": {"yarn"},
    "passkey_evaluators.py": {"yarn"},
    "passkey_result.py": {"yarn"},
    "perplexity.py": {"pi"},
    "base.py": {"pi"},
}
"""Ways to measure, which are called by the papers that they come from."""


def named_methods(source: str, protocols: Collection[str] = ()) -> list[int]:
    """Lines that hold a method's name as a string of its own, or compare a method with an ordinary word."""
    tree, lines = ast.parse(source), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in NAMES - ORDINARY - {*protocols}:
            lines.append(node.lineno)
        if isinstance(node, ast.Compare):
            about = ast.unparse(node)
            if ("method" in about or "scaling_type" in about) and any(
                isinstance(part, ast.Constant) and part.value in ORDINARY for part in ast.walk(node)
            ):
                lines.append(node.lineno)
    return lines


def test_no_file_asks_for_a_method_by_name() -> None:
    found = []
    for path in sorted((ROOT / "nemo_pi").rglob("*.py")):
        if path.parent != ROOT / "nemo_pi" / "rope" / "methods":
            lines = named_methods(path.read_text("utf-8"), PROTOCOLS.get(path.name, ()))
            found += [f"{path.relative_to(ROOT)}:{n}" for n in lines]
    assert found == []


@pytest.mark.parametrize(
    "source",
    ['if spec.method == "yarn": pass', 'if x.method in ("none", 1): pass', 'KNOWN = {"longrope": 1}'],
)
def test_a_name_is_seen(source: str) -> None:
    assert named_methods(source) == [1]


def test_our_names_are_unique() -> None:
    others = [name for method in registry.BUILT_IN.values() for name in (method.name, *method.also_called)]
    assert len(others) == len(set(others))
    types = [name for method in registry.BUILT_IN.values() for name in method.hf_types]
    assert len(types) == len(set(types))
