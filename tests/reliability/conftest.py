"""What the attacks share: one rank, and a small run's model as save_to writes it."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

import pytest

from tests.integration.world import World, make_world
from tests.reliability.hostile import NemoFile
from tests.unit.nemo.runs import make_inputs, resolved


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Data, start models and finished runs, as in tests/integration."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NemoFile]:
    """The members of a sound .nemo file."""
    from nemo_pi.nemo.module import ContextExtensionModel
    from nemo_pi.nemo.settings import self_contained_model_config
    from nemo_pi.parallel import groups

    folder = tmp_path_factory.mktemp("saved")
    run = resolved(make_inputs(folder / "inputs"), folder / "logs")
    groups.ensure_process_group()
    groups.initialize(run.parallel, run.seed)
    model = ContextExtensionModel(self_contained_model_config(run), run=run)
    model.configure_model()
    model.save_to(str(folder / "model.nemo"))
    with tarfile.open(folder / "model.nemo") as archive:
        members = {
            member.name: archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive.getmembers()
            if member.isfile()
        }
    assert sorted(members) == ["./model_config.yaml", "./model_weights.ckpt"]
    yield NemoFile(members["./model_config.yaml"].decode(), members["./model_weights.ckpt"])
    groups.destroy()
