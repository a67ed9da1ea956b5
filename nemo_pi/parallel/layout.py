"""How the ranks of a run are divided: plain numbers, no process groups."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nemo_pi.units import plural


@dataclass(frozen=True)
class ParallelLayout:
    """Sizes of every parallel dimension; world size = TP · PP · CP · DP."""

    tp: int = 1
    """Ranks that share each layer's matrices (TP)."""
    pp: int = 1
    """Ranks that the layers are dealt over (PP)."""
    vpp: int | None = None
    """Model chunks a pipeline rank holds (interleaved 1F1B); None means one, the plain 1F1B schedule."""
    cp: int = 1
    """Ranks that share each sequence (CP)."""
    cp_comm_type: str | None = None
    """How those exchange keys and values: all_gather, p2p or a2a; None: as the attention in use likes it."""
    dp: int = 1
    """Replicas that see different samples (DP)."""
    sequence_parallel: bool = False
    """Whether norms and residuals are split along the sequence over the tensor ranks (SP)."""

    @property
    def model_ranks(self) -> int:
        """Ranks that hold one replica."""
        return self.tp * self.pp * self.cp

    @property
    def world_size(self) -> int:
        """Ranks of the run."""
        return self.model_ranks * self.dp

    @property
    def sequence_multiple(self) -> int:
        """What the tokens of a row must be a multiple of, so that its ranks can share them evenly."""
        # Causal work is balanced by giving each context rank one chunk from the front and one from the back.
        chunks = 2 * self.cp if self.cp > 1 else 1
        # Each context-parallel rank's part is split again.
        return math.lcm(chunks, self.cp * self.tp if self.sequence_parallel else 1)

    def layers_per_chunk(self, num_layers: int) -> int:
        """Layers of one model chunk on one rank."""
        return num_layers // (self.pp * (self.vpp or 1))

    def describe(self) -> str:
        """One line for plans and logs, such as `TP 2 · PP 2 · CP 1 · DP 1 (4 ranks)`."""
        parts = [f"TP {self.tp}", f"PP {self.pp}", f"CP {self.cp}", f"DP {self.dp}"]
        if self.vpp:
            parts[1] += f" (interleaved, {self.vpp} chunks a rank)"
        if self.cp_comm_type:
            parts[2] += f" ({self.cp_comm_type})"
        if self.sequence_parallel:
            parts.append("sequence parallel")
        return f"{' · '.join(parts)} ({plural(self.world_size, 'rank')})"
