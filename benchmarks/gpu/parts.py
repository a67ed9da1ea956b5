"""What is tried, as tables: parts, each a process of its own, and their cases, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from benchmarks.training.sizes import SIZES
from nemo_pi.config.schema import ModelConfig, OptimConfig
from nemo_pi.kernels.backends import candidates
from nemo_pi.kernels.rotary import KERNELS

K = 1024
BUNDLED = "bundled"
"""Size that stands for the model of demo/model, with its weights; the others have random ones."""
LEAST = 1 * K
"""Target window of the bundled model at least, which reads 512 tokens unscaled."""
LAYERS = 4
"""Of the Llama-7B-shaped stack, which has to fit beside its optimizer into 80 GB."""


@dataclass(frozen=True)
class Case:
    """A few training steps, or what else `kind` says, of one model with one set of keys."""

    name: str
    """Line of the table."""
    size: str = BUNDLED
    """BUNDLED, or a name in benchmarks.training.sizes."""
    length: int = 4 * K
    """Tokens of a sample; the target window is as long, or LEAST."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """Keys of `model` in the YAML."""
    precision: str = "bf16-mixed"
    """trainer.precision."""
    steps: int = 3
    """Training steps; the first one is not timed."""
    kind: str = "train"
    """train, packed (several documents in a row), generate, or rotary (the race of its kernels)."""


@dataclass(frozen=True)
class Part:
    """Cases that share a process: one that ends it, or hangs, costs the rest of this part alone."""

    name: str
    """On the command line."""
    what: str
    """In the plan of the run."""
    seconds: int
    """It is ended after this long; about twice what an H100 should need."""
    cases: tuple[Case, ...]
    """In order."""
    ranks: int = 1
    """Processes, each with a GPU of its own."""
    device: str | None = None
    """cpu, where it is computed there whatever the run's device is."""


def parts(*, small: bool) -> tuple[Part, ...]:
    """Everything; `small` for a CPU, in seconds."""
    window = 64 if small else 4 * K
    # Transformer Engine's attention has no fp32.
    own = {"transformer_engine": False}
    exact = Case("steps in fp32", length=window, model=own, precision="32", steps=4)
    lengths = (64, 128) if small else (32 * K, 64 * K, 128 * K)
    return (
        Part("backends", "which parts run, and their loss", 90, tuple(_backends(window, small))),
        Part("parity-cpu", "losses and new tokens on the CPU", 60, (exact, _generation()), device="cpu"),
        Part("parity", "the same on this device", 40, (exact, _generation())),
        Part("rotary", "the race of rotary kernels", 90, (Case("rotary", kind="rotary", length=window),)),
        *(
            Part(
                f"stack-{length // K}k" if length >= K else f"stack-{length}",
                _stack_said(length, small),
                120,
                tuple(stack(length, small=small)),
            )
            for length in lengths
        ),
        Part("context-parallel", "a sample over two ranks", 60, (_context_parallel(window, small),), ranks=2),
    )


def _backends(length: int, small: bool) -> Iterator[Case]:
    precision = "32" if small else "bf16-mixed"

    def case(name: str, *, kind: str = "train", **model: Any) -> Case:
        return Case(name, length=length, model=model, precision=precision, kind=kind)

    yield case("auto")
    yield case("local layers", transformer_engine=False)
    yield case("Transformer Engine's layers", transformer_engine=True)
    for kernel in KERNELS:
        yield case(f"rotary: {kernel.name}", transformer_engine=False, rotary_kernel=kernel.name)
    for job in ("attention", "norm", "activation"):
        for backend in candidates(job):
            if backend.name != "transformer_engine":  # in its layers, above
                keys: dict[str, Any] = {"transformer_engine": False, f"{job}_backend": backend.name}
                yield case(f"{job}: {backend.name}", **keys)
    yield case("whole logits", loss="full")
    yield case("adapters", peft={"peft_scheme": "lora"})
    yield case("packed documents", kind="packed")


def _generation() -> Case:
    own = {"transformer_engine": False}
    return Case("greedy tokens", length=1 * K, model=own, precision="32", kind="generate")


def _context_parallel(length: int, small: bool) -> Case:
    # Without a GPU, all-gather over gloo is what there is.
    layers = {} if small else {"transformer_engine": True}
    return Case(
        "context parallel 2",
        length=length,
        model={"context_parallel_size": 2, **layers},
        precision="32" if small else "bf16-mixed",
    )


RECOMPUTED = {
    "activations_checkpoint_granularity": "full",
    "activations_checkpoint_method": "uniform",
    "activations_checkpoint_num_layers": 1,
}
TRICKS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("chunked loss", {}),
    ("+ recomputed layers", RECOMPUTED),
    ("+ tiled MLP", {"mlp_chunk_size": "auto"}),
    ("+ layer inputs on the host", {"activations_offload": "host"}),
    ("+ optimizer on the host", {"optim": {"optimizer_cpu_offload": True}}),
)
"""What saves memory, each added to those before it; a key that this version does not have is left out."""
_SPARED = {
    "activations_checkpoint_granularity": "selective",
    "activations_checkpoint_modules": ["all_but_core_attn"],
    "activations_checkpoint_method": None,
    "activations_checkpoint_num_layers": None,
}


def stack(length: int, *, small: bool) -> Iterator[Case]:
    """A stack of layers at one length, a trick more in each case; attention spared from recomputing last."""
    given: dict[str, Any] = {} if small else {"num_layers": LAYERS}
    for name, keys in (*TRICKS, ("attention kept instead of recomputed", _SPARED)):
        if not _known(keys):
            continue
        given = {**given, **keys}
        yield Case(
            name,
            size="2x64" if small else "llama-7b",
            length=length,
            model=given,
            precision="32" if small else "bf16-mixed",
            steps=2,
        )


def _known(keys: Mapping[str, Any]) -> bool:
    model, optim = ({one.name for one in fields(kind)} for kind in (ModelConfig, OptimConfig))
    return set(keys) <= model and set(keys.get("optim", {})) <= optim


def _stack_said(length: int, small: bool) -> str:
    shape = SIZES["2x64" if small else "llama-7b"].shape
    layers = shape.num_layers if small else LAYERS
    return f"{layers} layers of {shape.hidden_size:,} channels, {length:,} tokens, each trick"
