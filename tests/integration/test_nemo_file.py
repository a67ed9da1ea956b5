"""A .nemo file: written, moved away from everything it was made of, and restored."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

from tests.integration.launch import call
from tests.integration.world import World

LENGTH = 256


def test_a_nemo_file_restores_to_equal_weights_and_logits(world: World) -> None:
    folder = world.folder / "nemo-file"
    call(save_and_restore, world.arguments(), world.models["untied"], folder=folder).check()


def test_a_nemo_file_may_name_no_other_class(world: World) -> None:
    folder = world.folder / "nemo-file-other"
    call(save_and_refuse, world.arguments(), world.models["untied"], folder=folder).check()


def save_and_restore(arguments: list[str], start: Path) -> None:
    """In a process of its own: saves, takes the start model away, restores, compares."""
    import torch

    from nemo_pi.nemo.module import ContextExtensionModel

    model = build(arguments, start)
    tokens = torch.randint(2048, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(LENGTH).expand(2, -1)
    wanted = logits(model, tokens, positions)
    model.save_to("model.nemo")
    shutil.rmtree("start")
    restored = ContextExtensionModel.restore_from("model.nemo", map_location="cpu")
    assert restored.run.shape == model.run.shape
    assert restored.run.extension == model.run.extension
    weights, saved = restored.state_dict(), model.state_dict()
    assert weights.keys() == saved.keys()
    assert all(torch.equal(weights[name], saved[name]) for name in saved if saved[name] is not None)
    assert torch.equal(logits(restored, tokens, positions), wanted)
    assert wanted.std() > 0.1


def save_and_refuse(arguments: list[str], start: Path) -> None:
    """In a process of its own: a file whose configuration names another class is not restored."""
    from nemo_pi.errors import CheckpointError
    from nemo_pi.nemo.module import ContextExtensionModel

    build(arguments, start).save_to("model.nemo")
    with tarfile.open("model.nemo") as archive:
        archive.extractall("opened", filter="data")
    config = Path("opened/model_config.yaml")
    text = config.read_text()
    assert "target: nemo_pi.nemo.module.ContextExtensionModel" in text
    config.write_text(text.replace("module.ContextExtensionModel", "cli.reports_errors"))
    with tarfile.open("other.nemo", "w") as archive:
        archive.add("opened", arcname=".")
    try:
        ContextExtensionModel.restore_from("other.nemo", map_location="cpu")
    except CheckpointError:
        return
    raise AssertionError("another class was restored")


def build(arguments: list[str], start: Path) -> Any:
    """The model of a run, its start model copied beside the .nemo file to be."""
    from hydra import compose, initialize_config_dir

    from nemo_pi.checkpoint.summary import read_summary
    from nemo_pi.config.load import resolve
    from nemo_pi.nemo.module import ContextExtensionModel
    from nemo_pi.nemo.settings import self_contained_model_config
    from nemo_pi.parallel import groups
    from tests.integration.launch import ROOT

    shutil.copytree(start, "start")
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose("extend_context", [*arguments, "restore_from_path=start"])
    run = resolve(cfg, world_size=1, summary=read_summary("start"))
    groups.ensure_process_group()
    groups.initialize(run.parallel, run.seed)
    model = ContextExtensionModel(self_contained_model_config(run), run=run)
    model.configure_model()
    return model


def logits(model: Any, tokens: Any, positions: Any) -> Any:
    """Logits [B, S, V] of the whole sequence."""
    import torch

    from nemo_pi.parallel.cpu_shim import cpu_shim

    (chunk,) = model.engine.chunks
    with torch.no_grad(), cpu_shim():
        return chunk(input_ids=tokens, position_ids=positions, attention_mask=None).float()
