"""Lightning's part in a Megatron run: it launches ranks and joins them, and leaves the rest alone."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import DDPStrategy

from nemo_pi.parallel import groups, liveness
from nemo_pi.parallel.layout import ParallelLayout


class MegatronStrategy(DDPStrategy):
    """A DDPStrategy whose ranks form Megatron's groups; gradients are reduced by Megatron's own DDP.

    Args:
        layout: how ranks are divided.
        seed: seeds weights and, on a GPU, Megatron's generators.
        timeout_minutes: how long ranks wait for one that hangs.
        kwargs: as DDPStrategy's.
    """

    def __init__(
        self, layout: ParallelLayout, seed: int, timeout_minutes: float = 30.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._timeout_minutes = timeout_minutes
        self._layout = layout
        self._seed = seed

    def setup_environment(self) -> None:
        """Joins the launched ranks, then makes Megatron's groups over them."""
        # With torch's own, longer time-out: until they join, ranks read and check for minutes by themselves.
        super().setup_environment()
        groups.initialize(self._layout, self._seed, self._timeout_minutes)
        liveness.start(self._timeout_minutes)

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
