"""What can go wrong before the first step, looked for before anything is allocated or written."""

from __future__ import annotations

from pathlib import Path

from nemo_pi.checkpoint.hf_target import check_target
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.model.build import check_backends
from nemo_pi.training.loaders import check_data
from nemo_pi.training.settings import engine_settings


def check_before_training(run: ResolvedRun) -> None:
    """Looks at backends, the export's folder and the data, cheapest first.

    Raises:
        BackendUnavailableError, CheckpointError, DataError: what training would stop at later.
    """
    settings = engine_settings(run)
    check_backends(settings.shape, settings.extension, settings.layout, settings.build)
    if run.export.hf_path is not None:
        check_target(Path(run.export.hf_path))
    check_data(run)
