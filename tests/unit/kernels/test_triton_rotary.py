"""The Triton kernel: in the interpreter where there is no GPU, and compiled for GPUs that are not there."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from nemo_pi.kernels.rotation import Angles, Heads
from tests.unit.kernels.rotations import DEVICE, rotation

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


def test_offsets_beyond_32_bits() -> None:
    """Two tokens that lie 2^31 elements apart; the memory between them is never touched."""
    apart = 2**31 + 64
    if DEVICE == "cuda" and torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("needs 12 GiB of free GPU memory")
    q, out = (torch.empty(apart + 64, dtype=torch.float16, device=DEVICE) for _ in range(2))
    far, far_out = (x.as_strided((2, 1, 1, 1, 8), (apart, 8, 8, 8, 1)) for x in (q, out))
    far.fill_(1.0)
    k = torch.ones(2, 1, 1, 1, 8, dtype=torch.float16, device=DEVICE)
    quarter = Angles(torch.zeros(2, 1, 4, device=DEVICE), torch.ones(2, 1, 4, device=DEVICE), False)
    rotation("triton")(Heads(far, k), Heads(far_out, torch.empty_like(k)), quarter)
    assert far_out[1].flatten().tolist() == [-1.0] * 4 + [1.0] * 4


def test_too_wide_a_head() -> None:
    x = torch.ones(1, 1, 1, 1, 258, device=DEVICE)
    table = torch.ones(1, 1, 129, device=DEVICE)
    with pytest.raises(ValueError, match="up to 256 channels; got 258"):
        rotation("triton")(Heads(x, x), Heads(x, x), Angles(table, table, False))


@pytest.mark.parametrize(
    ("q_heads", "k_heads", "pairs", "expected"),
    [(32, 32, 64, 32), (32, 8, 64, 8), (71, 1, 32, 4), (1, 1, 64, 1), (3, 3, 128, 4), (64, 64, 128, 16)],
)
def test_heads_of_a_tile(q_heads: int, k_heads: int, pairs: int, expected: int) -> None:
    from nemo_pi.kernels.triton_rotary import _heads_of_a_tile

    assert _heads_of_a_tile(q_heads, k_heads, pairs) == expected


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from nemo_pi.kernels.triton_tiles import rotate_kernel

heads = {"q", "k", "v", "q_out", "k_out", "v_out"}

def assembly(capability, **constants):
    signature, attributes = {}, {}
    for place, name in enumerate(rotate_kernel.arg_names):
        table = name in ("cos", "sin")
        kind = "*bf16" if name in heads else "*fp32" if table else "i32"
        signature[name] = "constexpr" if name in constants else kind
        if name not in constants and name not in ("num_tokens", "size_U"):
            attributes[(place,)] = [["tt.divisibility", 16]]
    places = {(rotate_kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=rotate_kernel, signature=signature, constexprs=places, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4}).asm

llama3 = dict(
    Q_HEADS=32, PER_GROUP=4, K_HEADS=8, PAIRS=64, HEAD_DIM=128, PASSED=0, INTERLEAVED=False, INVERSE=True,
    Q_TILES=4, K_TILES=1, BLOCK_N=4, BLOCK_H=8, BLOCK_F=64, BLOCK_P=1, BLOCK_D=128,
)
partial = dict(llama3, PAIRS=20, HEAD_DIM=80, PASSED=40, INTERLEAVED=True, BLOCK_F=32, BLOCK_P=64)
for capability, constants in ((90, llama3), (80, partial)):
    made = assembly(capability, **constants)
    text = made["ptx"]
    print(capability, len(made["cubin"]) > 0, "ld.global.v4" in text, "st.global.v4" in text)
"""


def test_compiles_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    """For Hopper and Ampere, down to machine code; 16 bytes are read and written at once."""
    root = Path(__file__).resolve().parents[3]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    settings = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=settings, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["90 True True True", "80 True True True"]
