"""Who rotates: nemo_pi and what its users would use instead, each called as its own documentation says.

Every function makes a Rotate for given inputs or says, by raising NotHere, why it cannot take part. Shapes:
as benchmarks/rotary/tasks.py. Where a library wants its heads before its tokens, it gets a view.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace

import torch
from torch import Tensor

from benchmarks.rotary.tasks import Inputs, Rotate
from nemo_pi.kernels import native
from nemo_pi.kernels.autograd import rotate_fused_qkv
from nemo_pi.kernels.capability import RotaryNeeds
from nemo_pi.kernels.reference import rotate_query_key
from nemo_pi.kernels.rotary import KERNELS


class NotHere(Exception):
    """Why a contestant cannot take part on this machine."""


def needs(package: str, inputs: Inputs, *, gpu: bool = True) -> None:
    """Raises NotHere without the package or, where it matters, without a GPU."""
    if find_spec(package.split(".")[0]) is None:
        raise NotHere("not installed")
    if gpu and inputs.device != "cuda":
        raise NotHere("runs on GPUs only")


class Ours:
    """A rotary kernel of nemo_pi, which also takes a projection's output whole."""

    def __init__(self, name: str, inputs: Inputs) -> None:
        (self.kernel,) = (kernel for kernel in KERNELS if kernel.name == name)
        if name == "triton":
            needs("triton", inputs)
        if self.kernel.obstacle is not None and (why := self.kernel.obstacle()):
            raise NotHere(why)
        if name == "native" and inputs.device != "cpu":
            raise NotHere("runs on CPUs only")
        self.cos, self.sin = inputs.angles()
        self.head_dim = inputs.shape.head_dim

    def __call__(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.kernel(q, k, self.cos, self.sin)

    def fused(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split and rotated in one go."""
        assert self.kernel.rotation is not None
        return rotate_fused_qkv(self.kernel.rotation, mixed, self.cos, self.sin, self.head_dim, in_place=True)


def reference(inputs: Inputs) -> Rotate:
    """nemo_pi's plain formula, which every kernel is compared with."""
    cos, sin = inputs.angles()
    return partial(rotate_query_key, cos_F=cos, sin_F=sin)


def _doubled(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Tables [1, S, D] in the dtype of q, as transformers' rotary module hands them to its layers."""
    cos, sin = (torch.cat((table, table), dim=-1).to(inputs.dtype) for table in inputs.angles())
    return cos, sin


def _heads_first(rotate: Callable[..., tuple[Tensor, Tensor]], *tables: Tensor) -> Rotate:
    def turned(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        one, two = rotate(q.transpose(1, 2), k.transpose(1, 2), *tables)
        return one.transpose(1, 2), two.transpose(1, 2)

    return turned


def transformers_eager(inputs: Inputs) -> Rotate:
    """transformers' Llama."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    return _heads_first(apply_rotary_pos_emb, *_doubled(inputs))


def transformers_compiled(inputs: Inputs) -> Rotate:
    """The same through torch.compile."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    if inputs.device == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        raise NotHere("torch.compile needs a C++ compiler")
    # Beyond a number of sizes, torch goes back to eager mode without a word: what was compiled before is
    # forgotten here, and reaching the limit is an error.
    torch._dynamo.reset()
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return _heads_first(torch.compile(apply_rotary_pos_emb, dynamic=False), *_doubled(inputs))


def megatron(inputs: Inputs) -> Rotate:
    """Stock megatron-core, unfused; its layout is [S, B, heads, D]."""
    from megatron.core.models.common.embeddings.rope_utils import apply_rotary_pos_emb

    cos, sin = inputs.angles()
    angle = torch.atan2(sin, cos)[0]
    freqs = torch.cat((angle, angle), dim=-1)[:, None, None]
    config = SimpleNamespace(apply_rope_fusion=False, rotary_interleaved=False, multi_latent_attention=False)

    def rotate(x: Tensor) -> Tensor:
        # The group matters for packed sequences only, but has to be something.
        turned: Tensor = apply_rotary_pos_emb(x.transpose(0, 1), freqs, config, cp_group=config)
        return turned.transpose(0, 1)

    return lambda q, k: (rotate(q), rotate(k))


def liger(inputs: Inputs) -> Rotate:
    """Liger-Kernel's Triton kernel, which works in place."""
    needs("liger_kernel", inputs)
    from liger_kernel.transformers.rope import liger_rotary_pos_emb

    return _heads_first(liger_rotary_pos_emb, *_doubled(inputs))


def flash_attention(inputs: Inputs) -> Rotate:
    """flash-attention's Triton kernel, for q and k in turn; its tables must have their dtype."""
    needs("flash_attn", inputs)
    from flash_attn.layers.rotary import apply_rotary_emb

    cos, sin = (table[0].to(inputs.dtype) for table in inputs.angles())
    return lambda q, k: (apply_rotary_emb(q, cos, sin), apply_rotary_emb(k, cos, sin))


def transformer_engine(inputs: Inputs) -> Rotate:
    """Transformer Engine's CUDA kernel through nemo_pi's adapter."""
    ours = Ours("transformer_engine", inputs)
    if why := ours.kernel.unusable(RotaryNeeds(ours.head_dim, device_type=inputs.device, dtype=inputs.dtype)):
        raise NotHere(why)
    return ours.__call__


CONTESTANTS: dict[str, Callable[[Inputs], Rotate]] = {
    "nemo_pi triton": partial(Ours, "triton"),
    "nemo_pi native": partial(Ours, "native"),
    "nemo_pi torch": partial(Ours, "torch"),
    "nemo_pi reference": reference,
    "transformers": transformers_eager,
    "torch.compile": transformers_compiled,
    "megatron-core": megatron,
    "Liger-Kernel": liger,
    "flash-attention": flash_attention,
    "Transformer Engine": transformer_engine,
}
OURS = {"cpu": "nemo_pi torch" if native.obstacle() else "nemo_pi native", "cuda": "nemo_pi triton"}
"""What `auto` takes."""
