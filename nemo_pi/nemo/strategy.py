"""Lightning's part in a Megatron run: it launches ranks and joins them, and leaves the rest alone."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import DDPStrategy

from nemo_pi.parallel import groups
from nemo_pi.parallel.layout import ParallelLayout


class MegatronStrategy(DDPStrategy):
    """A DDPStrategy whose ranks form Megatron's groups; gradients are reduced by Megatron's own DDP.

    Args:
        layout: how ranks are divided.
        seed: seeds weights and, on a GPU, Megatron's generators.
        kwargs: as DDPStrategy's.
    """

    def __init__(self, layout: ParallelLayout, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._layout = layout
        self._seed = seed

    def setup_environment(self) -> None:
        """Joins the launched ranks, then makes Megatron's groups over them."""
        super().setup_environment()
        groups.initialize(self._layout, self._seed)

    def configure_ddp(self) -> None:
        """Nothing: torch's DDP would reduce gradients a second time."""

    def teardown(self) -> None:
        """As DDPStrategy's, except that weights stay where they are for what follows training."""
        assert self.cluster_environment is not None
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        assert self.accelerator is not None
        self.accelerator.teardown()
        self.checkpoint_io.teardown()
