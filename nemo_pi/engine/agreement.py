"""One choice of backends for all ranks: other rounding on one of them would drive replicas apart."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from nemo_pi.model.backends import Backends, Workload, choose_backends, obstacles
from nemo_pi.model.options import BackendRequests


def agreed_backends(work: Workload, requests: BackendRequests) -> Backends:
    """What each job of a model gets, on all ranks what the first one chose among what all of them can do.

    Every rank calls it; only the first one measures.

    Raises:
        BackendUnavailableError: a backend asked for by name cannot run on this rank, or none can on all.
    """
    # The fake backend plays ranks that do not exist: there is nobody to agree with.
    if not dist.is_initialized() or dist.get_world_size() == 1 or dist.get_backend() == "fake":
        return choose_backends(work, requests)
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, obstacles(work, requests))
    decision: list[Any] = [None]
    if dist.get_rank() == 0:
        # An error must reach every rank: the others wait for the decision.
        try:
            decision = [choose_backends(work, requests, elsewhere=_merged(everyone)).requests()]
        except Exception as error:
            decision = [error]
    dist.broadcast_object_list(decision, src=0)
    if isinstance(decision[0], Exception):
        raise decision[0]
    # By name now, so that nothing is measured a second time.
    return choose_backends(work, decision[0])


def _merged(everyone: list[dict[tuple[str, str], str]]) -> dict[tuple[str, str], str]:
    """Why what cannot run on some rank cannot be chosen."""
    merged: dict[tuple[str, str], str] = {}
    for rank, found in enumerate(everyone):
        for what, reason in found.items():
            merged.setdefault(what, f"on rank {rank}: {reason}")
    return merged
