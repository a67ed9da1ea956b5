"""What computes a model, and what the report calls it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nemo_pi.checkpoint.manifest import MANIFEST
from nemo_pi.cli.evaluate_models import choose_backend, names_of, unshipped
from nemo_pi.errors import CheckpointError, ConfigError
from nemo_pi.families import registry
from tests.plug_ins import install

BUNDLED = Path(__file__).resolve().parents[3] / "demo" / "model"


@pytest.fixture
def distributed(tmp_path: Path) -> Path:
    (tmp_path / MANIFEST).write_text("{}")
    return tmp_path


def test_auto_takes_transformers_for_a_folder_on_one_rank_only(distributed: Path) -> None:
    folder = distributed / "huggingface"
    assert choose_backend(folder, "auto", 1) == "transformers"
    assert choose_backend(folder, "auto", 2) == "megatron"
    assert choose_backend(distributed, "auto", 1) == "megatron"


def test_a_request_is_kept_or_refused(distributed: Path) -> None:
    folder = distributed / "huggingface"
    assert choose_backend(folder, "megatron", 1) == "megatron"
    assert choose_backend(folder, "transformers", 1) == "transformers"
    for model, ranks in ((distributed, 1), (folder, 2)):
        with pytest.raises(ConfigError, match=r"^--backend: required megatron"):
            choose_backend(model, "transformers", ranks)


def of_family(folder: Path, name: str) -> Path:
    """The bundled model as another family's."""
    shutil.copytree(BUNDLED, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": name}))
    return folder


def test_a_family_that_transformers_lacks_is_megatron_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeta = of_family(tmp_path / "model", "zeta")
    with pytest.raises(CheckpointError, match=r"model_type: .*given 'zeta'\. To fix: install the package"):
        choose_backend(zeta, "auto", 1)
    source = "raise RuntimeError('choosing runs no code of a package')"
    install(tmp_path / "package", monkeypatch, "zeta", source, registry.PLUG_INS, {"zeta": "Zeta"})
    assert choose_backend(zeta, "auto", 1) == choose_backend(zeta, "megatron", 1) == "megatron"
    with pytest.raises(ConfigError, match=r"^backend: .*'zeta'.*To fix: backend=megatron"):
        choose_backend(zeta, "transformers", 1)
    assert unshipped(zeta) == "zeta" and unshipped(BUNDLED) is None
    # Known to transformers only.
    assert choose_backend(of_family(tmp_path / "gpt2", "gpt2"), "auto", 1) == "transformers"


def test_models_are_told_apart_by_as_much_of_their_paths_as_it_takes() -> None:
    folders = ["base", "a/pi/huggingface", "a/yarn/huggingface", "b/yarn/huggingface"]
    assert names_of([Path(folder) for folder in folders]) == [
        "base",
        "pi/huggingface",
        "a/yarn/huggingface",
        "b/yarn/huggingface",
    ]
    assert names_of([Path("/same"), Path("/same")]) == ["/same", "/same"]
