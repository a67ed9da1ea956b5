"""Which backend does each job of a model: asked once, by the plan and when the model is built.

Nothing here imports Megatron: the plan of a run is made without it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import gcd
from typing import Any

import torch

from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.kernels.backends import JOBS, candidates, choose
from nemo_pi.kernels.capability import RotaryNeeds, rotary_needs
from nemo_pi.kernels.needs import ActivationNeeds, AttentionNeeds, Needs, NormNeeds, ProductNeeds
from nemo_pi.kernels.race import racing
from nemo_pi.kernels.registry import AUTO, Backend, Choice, log_once
from nemo_pi.kernels.rotary import KERNELS, RotaryKernel, choose_rotary_kernel
from nemo_pi.model.options import BackendRequests, BuildOptions
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.rope.spec import ContextExtension

ROTARY = "rotary"
"""The sixth job, whose kernels and needs are of their own kind."""
SLIDING = "sliding_attention"
"""Attention of layers with a sliding window, where it is chosen apart from that of the others."""


@dataclass(frozen=True)
class Workload:
    """The model and the calls that its layers are built for, as one rank sees them."""

    shape: ModelShape
    extension: ContextExtension
    layout: ParallelLayout
    dtype: torch.dtype = torch.float32
    """What the layers compute in."""
    transformer_engine: bool = False
    """Whether layers are Transformer Engine's."""
    micro_batch_size: int = 1
    """Rows of one call."""
    length: int | None = None
    """Tokens of a row, on all ranks that share it; None: the target window."""
    loss_chunk_tokens: int | None = 512
    """Tokens whose logits exist at once; None: all of them."""

    @property
    def row_tokens(self) -> int:
        """Tokens of a row on this rank."""
        return (self.length or self.extension.target_window) // self.layout.cp

    def needs(self) -> dict[str, Needs]:
        """What each job of JOBS asks and, where only some layers' window hides keys, their attention."""
        shape, tp = self.shape, self.layout.tp
        kind = family_of(shape).layer_kind(shape)
        common: dict[str, Any] = {
            "device_type": "cuda" if torch.cuda.is_available() else "cpu",
            "dtype": self.dtype,
            "engine_layers": self.transformer_engine,
        }
        tokens = self.micro_batch_size * self.row_tokens
        chunk = self.loss_chunk_tokens
        heads, groups = shape.num_attention_heads // tp, max(1, shape.num_query_groups // tp)
        width, hidden, inner = shape.head_dim, shape.hidden_size, shape.ffn_hidden_size // tp
        window, sliding = shape.sliding_window, shape.sliding_layers
        hides = window is not None and window < (self.length or self.extension.target_window)
        mixed = hides and 0 < len(sliding) < shape.num_layers
        attention = AttentionNeeds(
            width=width,
            heads=heads,
            groups=groups,
            tokens=self.row_tokens,
            window=hides and not mixed,
            split_rows=self.layout.cp > 1,
            **common,
        )
        return {
            "attention": attention,
            **({SLIDING: replace(attention, window=True)} if mixed else {}),
            # Norms of heads are computed by the same backend: what divides both widths must suit it.
            "norm": NormNeeds(
                width=gcd(hidden, width) if kind.qk_norm else hidden, tokens=tokens, norm=kind.norm, **common
            ),
            "activation": ActivationNeeds(
                width=inner, tokens=tokens, function=kind.activation, gated=kind.gated, **common
            ),
            "softmax": Needs(
                width=shape.vocab_rows(tp), tokens=min(tokens, chunk) if chunk else tokens, **common
            ),
            "matmul": ProductNeeds(
                width=hidden,
                tokens=tokens,
                outputs=((heads + 2 * groups) * width, (2 if kind.gated else 1) * inner),
                **common,
            ),
        }

    def rotary_needs(self) -> RotaryNeeds:
        """What the rotary kernel is asked."""
        heads = (self.shape.num_attention_heads + self.shape.num_query_groups) // self.layout.tp
        needs = rotary_needs(self.extension, self.dtype)
        return replace(needs, heads=heads, tokens=self.micro_batch_size * self.row_tokens)


def workload(
    shape: ModelShape,
    extension: ContextExtension,
    layout: ParallelLayout,
    options: BuildOptions,
    *,
    micro_batch_size: int = 1,
    length: int | None = None,
) -> Workload:
    """What backends are chosen for; `length` in tokens of a whole row, None for the target window."""
    return Workload(
        shape,
        extension,
        layout,
        dtype=options.params_dtype,
        transformer_engine=options.transformer_engine,
        micro_batch_size=micro_batch_size,
        length=length,
        loss_chunk_tokens=options.loss_chunk_tokens,
    )


@dataclass(frozen=True)
class Backends:
    """What does each job of a model, and how it was chosen."""

    rotary: Choice[RotaryKernel]
    others: Mapping[str, Choice[Backend]] = field(default_factory=dict)

    def load(self, job: str) -> Any:
        """What does a job of JOBS; kernels/backends.py says of what kind it is."""
        return self.others[job].backend.load()

    def load_sliding_attention(self) -> Any:
        """What attends in layers with a sliding window; None where nothing was chosen for them apart."""
        return self.load(SLIDING) if SLIDING in self.others else None

    def describe(self) -> dict[str, str]:
        """{job: name and how it was chosen}, as the plan shows it."""
        return {job: choice.describe() for job, choice in self._all().items()}

    def names(self) -> dict[str, str]:
        """{job: name}, as a checkpoint records it."""
        return {job: choice.name for job, choice in self._all().items()}

    def requests(self) -> BackendRequests:
        """Requests by name for just these, which remember how each was chosen."""
        how = {job: choice.how for job, choice in self._all().items()}
        return BackendRequests(**self.names(), settled=how)

    def _all(self) -> dict[str, Choice[Any]]:
        return {**self.others, ROTARY: self.rotary}


Obstacles = Mapping[tuple[str, str], str]
"""{(job, name): why it cannot run}."""


def choose_backends(
    work: Workload, requests: BackendRequests, *, elsewhere: Obstacles | None = None
) -> Backends:
    """What each job of a model gets; on CPUs `auto` takes what is the fastest here (kernels/race.py).

    Args:
        work: what is asked of them.
        requests: `auto` or a name for each.
        elsewhere: what cannot run on other ranks.

    Raises:
        ConfigError: a request is for a name that is not known.
        BackendUnavailableError: the backend asked for by name cannot do the job here, with the reason.
    """
    needs, rotary_needs = work.needs(), work.rotary_needs()
    there: dict[str, dict[str, str]] = {job: {} for job in (*JOBS, SLIDING, ROTARY)}
    for (job, name), reason in (elsewhere or {}).items():
        there[job][name] = reason
    rotary = choose_rotary_kernel(
        requests.rotary, rotary_needs, measure=racing(ROTARY, rotary_needs), elsewhere=there[ROTARY]
    )
    others = {
        job: choose(
            of_kernels(job), _request(requests, job), asked, racing(of_kernels(job), asked), there[job]
        )
        for job, asked in needs.items()
    }
    said = {ROTARY: rotary.said, **{job: choice.said for job, choice in others.items()}}
    news = [sentence for job, sentence in said.items() if job not in requests.settled]
    if news:
        log_once("; ".join(news), logging.DEBUG)
    every: dict[str, Choice[Any]] = {ROTARY: rotary, **others}
    if chosen := {job: choice for job, choice in every.items() if choice.asked == AUTO}:
        log_once(_short(chosen, needs, rotary_needs))
    return Backends(
        replace(rotary, how=requests.settled.get(ROTARY, rotary.how)),
        {job: replace(choice, how=requests.settled.get(job, choice.how)) for job, choice in others.items()},
    )


def _short(chosen: Mapping[str, Choice[Any]], needs: Mapping[str, Needs], rotary_needs: RotaryNeeds) -> str:
    """What `auto` chose for which jobs, and what would suit them but is not to be had here."""
    absent: dict[str, str] = {}
    for job in chosen:
        for one in KERNELS if job == ROTARY else candidates(of_kernels(job)):
            asked: Any = rotary_needs if job == ROTARY else needs[job]
            if one.capability.lacks(asked) is None and (reason := one.obstacle_here()) is not None:
                absent[one.name] = reason
    names = ", ".join(f"{job} {choice.name}" for job, choice in chosen.items())
    reasons = "; ".join(f"{name}: {reason}" for name, reason in absent.items())
    return f"auto chose {names}" + (f" ({reasons})" if reasons else "")


def of_kernels(job: str) -> str:
    """The job whose backends do this one."""
    return "attention" if job == SLIDING else job


def _request(requests: BackendRequests, job: str) -> str:
    """What is asked for. A name that somebody wrote down is meant for attention of all layers."""
    asked: str = getattr(requests, job)
    if job == SLIDING and asked == AUTO and "attention" not in requests.settled:
        return requests.attention
    return asked


def known_names(job: str) -> tuple[str, ...]:
    """Names that `auto` may take, for a job of JOBS, SLIDING or rotary; none for anything else."""
    if job == ROTARY:
        return tuple(kernel.name for kernel in KERNELS)
    return tuple(one.name for one in candidates(of_kernels(job))) if of_kernels(job) in JOBS else ()


def obstacles(work: Workload, requests: BackendRequests) -> dict[tuple[str, str], str]:
    """All that cannot do its job here, and why; other packages' where they are asked for."""
    found = {
        (job, one.name): one.unusable(needs)
        for job, needs in work.needs().items()
        for one in candidates(of_kernels(job), _request(requests, job))
    }
    found |= {(ROTARY, kernel.name): kernel.unusable(work.rotary_needs()) for kernel in KERNELS}
    return {what: reason for what, reason in found.items() if reason is not None}


def check_requests(work: Workload, requests: BackendRequests) -> None:
    """Whether what is asked for by name can be had; `auto` is left alone.

    Raises:
        ConfigError, BackendUnavailableError: as choose_backends.
    """
    if requests.rotary != AUTO:
        choose_rotary_kernel(requests.rotary, work.rotary_needs())
    for job, needs in work.needs().items():
        if (request := _request(requests, job)) != AUTO:
            choose(of_kernels(job), request, needs)
