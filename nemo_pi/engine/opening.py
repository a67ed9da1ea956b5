"""A checkpoint opened to be used as it is: evaluated, or generated from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nemo_pi.checkpoint.summary import CheckpointSummary, read_base
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.engine.settings import EngineSettings
from nemo_pi.engine.weights import load_checkpoint_weights
from nemo_pi.model.build import check_backends
from nemo_pi.model.options import BuildOptions
from nemo_pi.parallel import groups
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.rope.spec import ContextExtension


def open_engine(
    checkpoint: CheckpointSummary,
    layout: ParallelLayout,
    build: BuildOptions | None = None,
    load: Callable[[MegatronEngine, Path], None] | None = None,
) -> MegatronEngine:
    """This rank's part of a checkpoint's model, with its positions as the checkpoint records them; adapters
    are merged into the weights of their base.

    Every rank calls it. Process groups are made for `layout` if they are not up yet.

    Args:
        checkpoint: of either kind, from read_summary.
        layout: from config.layout.resolve_layout; it need not be the one the checkpoint was saved at.
        build: dtype and layers; fp32 and local layers by default.
        load: reads what is wanted of the checkpoint's folder; None: all weights.

    Raises:
        BackendUnavailableError: the layout or the layers cannot be had here.
        CheckpointError: the weights are not what the checkpoint says of itself.
    """
    if checkpoint.adapter is not None and load is None:
        read_base(checkpoint)  # before ranks join, too
    build = replace(build or BuildOptions(), initialize=False)
    settings = EngineSettings(checkpoint.shape, checkpoint.extension, layout, micro_batch_size=1, build=build)
    # Before ranks join: a mistake is then told at once instead of after a wait for each other.
    check_backends(settings.shape, settings.extension, layout, settings.build)
    groups.ensure_process_group()
    groups.initialize(layout, seed=0)
    engine = MegatronEngine(settings)
    if load is None:
        load_checkpoint_weights(engine, checkpoint)
    else:
        load(engine, checkpoint.path)
    return engine


def reposition(engine: MegatronEngine, extension: ContextExtension) -> None:
    """Makes an engine's positions by another extension from now on; its weights stay as they are.

    Args:
        engine: whose kernels were chosen for the same windows and the same kinds of layers.
        extension: of the same model.
    """
    engine.settings = replace(engine.settings, extension=extension)
    for chunk in engine.chunks:
        chunk.rotary_tables.extension = extension
