"""verify on folders that are right, and on copies with each of the faults that it is there for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.errors import CheckpointError
from nemo_pi.families.registry import names
from nemo_pi.model.attention import RotarySelfAttention
from nemo_pi.parallel import groups
from nemo_pi.rope.hf import to_hf
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.verification.findings import Finding
from nemo_pi.verification.verify import Request, verify
from tests.unit.verification.folders import (
    HEAD_DIM,
    TARGET,
    WINDOW,
    cases,
    edited,
    family_folder,
    folder_of,
    rewritten,
    swapped_order,
)

BUNDLED = Path(__file__).resolve().parents[3] / "demo" / "model"


@pytest.fixture(autouse=True)
def no_world_is_left() -> Iterator[None]:
    yield
    groups.destroy()


def found(folder: Path, **settings: Any) -> list[Finding]:
    return verify(Request(read_summary(folder), **settings), say=lambda what: None)


def faults(findings: list[Finding]) -> list[str]:
    return [finding.check for finding in findings if finding.failed]


@pytest.mark.parametrize("keep", [True, False])
def test_the_bundled_model_is_right(keep: bool) -> None:
    findings = found(BUNDLED, keep=keep)
    assert faults(findings) == []
    checks = {finding.check for finding in findings}
    assert {f"logits, {row}" for row in ("inside", "edge", "beyond", "far")} <= checks
    assert {"cosines and sines", "hidden states behind each layer", "packed documents"} <= checks
    assert {"tokens read one by one, keys kept", "export, bit by bit"} <= checks


# Of each family a configuration, scaled where its config.json can say so; tools/families_table.py does all.
ONE = {family: (settings, method) for family, name, settings, method in cases() if name != "tied"}


@pytest.mark.parametrize("family", names())
def test_a_folder_of_each_family_is_right(family: str, tmp_path: Path) -> None:
    # Layer by layer: what a large one takes. The bundled model and every method are held whole.
    family_folder(tmp_path, family, *ONE[family])
    findings = found(tmp_path, keep=False)
    assert faults(findings) == []
    done = {finding.check for finding in findings if finding.verdict == "ok"}
    assert {"logits, far", "packed documents", "export, bit by bit"} <= done


@pytest.mark.parametrize("method", ["dynamic", "longrope", "llama3", "linear"])
def test_every_method_is_right(method: str, tmp_path: Path) -> None:
    assert faults(found(folder_of(tmp_path / "model", "llama", method))) == []


def with_record(folder: Path, copy: Path, method: str = "yarn") -> Path:
    """As we export it: the same positions, and our record of them."""
    spec = ContextExtension.build(
        original_window=WINDOW, target_window=TARGET, method=method, head_dim=HEAD_DIM
    )
    return edited(folder, copy, lambda config: config.update(to_hf(spec)))


def rope(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """A change of rope_parameters; None removes an entry."""

    def change(config: dict[str, Any]) -> None:
        entries = {**config["rope_parameters"], **changes}
        config["rope_parameters"] = {key: value for key, value in entries.items() if value is not None}

    return change


def unscaled(config: dict[str, Any]) -> None:
    theta = config["rope_parameters"]["rope_theta"]
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}


FAULTS = {
    "a wrong base": rope(rope_theta=500000.0),
    "a dropped factor": unscaled,
    "a wrong attention factor": rope(attention_factor=1.0),
    "another factor": rope(factor=4.0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_config_json_is_found(fault: str, tmp_path: Path) -> None:
    """By the record in the file itself, and by the known-good folder where there is no record."""
    good = with_record(folder_of(tmp_path / "plain"), tmp_path / "good")
    bad = edited(good, tmp_path / "bad", FAULTS[fault])
    assert faults(found(good)) == []
    assert "positions in config.json" in faults(found(bad))
    bare = edited(bad, tmp_path / "bare", lambda config: config.pop("nemo_pi_extension"))
    assert "positions in config.json" not in faults(found(bare))
    against = faults(found(bare, against=good))
    assert "cosines and sines" in against
    assert "logits, inside" in against


def test_an_order_of_channels_that_is_not_hugging_face_s_is_found(tmp_path: Path) -> None:
    good = folder_of(tmp_path / "good")
    bad = rewritten(good, tmp_path / "bad", swapped_order)
    findings = found(bad, against=good)
    assert {"logits, inside", "logits, far"} <= set(faults(findings))
    (layers,) = [finding for finding in findings if finding.check.startswith("hidden states")]
    assert layers.failed and layers.where.startswith("layer 0")


def test_a_layer_that_a_folder_does_not_scale_is_found_and_named(tmp_path: Path) -> None:
    """OLMo 3 scales layers that attend to everything; here one of them is counted among the others."""
    kinds = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
    settings = {"num_hidden_layers": 4, "layer_types": kinds, "sliding_window": 64}  # longer than the rows
    family_folder(tmp_path / "good", "olmo3", settings, "yarn")

    def change(config: dict[str, Any]) -> None:
        config["layer_types"][2] = "sliding_attention"

    findings = found(edited(tmp_path / "good", tmp_path / "bad", change), against=tmp_path / "good")
    (layers,) = [finding for finding in findings if finding.check.startswith("hidden states")]
    assert layers.failed and layers.where.startswith("layer 2")


def test_a_layer_that_is_not_scaled_is_found_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours: one layer of the model rotates by the tables of plain RoPE."""
    folder = folder_of(tmp_path / "model", "llama", "linear")
    forward = RotarySelfAttention.forward

    def faulty(self: Any, *args: Any, rotary_pos_emb: Any = None, **kwargs: Any) -> Any:
        if self.layer_number == 2 and rotary_pos_emb is not None:
            cos, sin = rotary_pos_emb.unbind(0)
            rotary_pos_emb = torch.stack((torch.ones_like(cos), torch.zeros_like(sin)))
        return forward(self, *args, rotary_pos_emb=rotary_pos_emb, **kwargs)

    monkeypatch.setattr(RotarySelfAttention, "forward", faulty)
    findings = found(folder)
    (layers,) = [finding for finding in findings if finding.check.startswith("hidden states")]
    assert layers.failed and layers.where.startswith("layer 1")


def test_a_bit_that_changes_on_the_way_back_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo_pi.checkpoint.hf import gather

    unfuse = gather.unfuse
    monkeypatch.setattr(
        gather, "unfuse", lambda *args: tuple(part.nextafter(part + 1) for part in unfuse(*args))
    )
    assert faults(found(folder_of(tmp_path / "model"))) == ["export, bit by bit"]


@pytest.mark.parametrize("given", ["another vocabulary", "an unknown class", "no model"])
def test_a_folder_to_compare_with_that_will_not_do_is_named(given: str, tmp_path: Path) -> None:
    folder, other = folder_of(tmp_path / "model"), tmp_path / "other"
    if given == "another vocabulary":
        folder_of(other, vocab_size=80)
    elif given == "an unknown class":
        edited(folder, other, lambda config: config.update(model_type="acme"))
    else:
        other.mkdir()
    with pytest.raises(CheckpointError, match=str(other)):
        found(folder, against=other)


def test_weights_that_the_dtype_does_not_hold_are_not_compared(tmp_path: Path) -> None:
    findings = found(folder_of(tmp_path / "model"), dtype=torch.bfloat16)
    (way_back,) = [finding for finding in findings if finding.check.startswith("export")]
    assert way_back.verdict == "not done" and "float32" in way_back.where
    assert faults(findings) == []
