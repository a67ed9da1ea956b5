"""The loss from hidden states to gradients: time and peak memory, in chunks against whole logits.

    python -m benchmarks.loss_memory --tokens 32768 --vocab 32768 --hidden 256

Every contestant gets the same hidden states, output weights, labels and mask (a tenth left out), and makes
the gradients of the first two. Times alternate in one process; each peak is that of a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear_cross_entropy

from benchmarks.harness import alternate, hardware, ratio, spread, write_results
from nemo_pi.model.chunked_loss import weighted_loss_sum

PLAIN = "whole logits, megatron-core"
OURS = "nemo_pi"
_IGNORED = -100


class Work:
    """The tensors of one size, and the losses to compute from them.

    Args:
        sizes: tokens, vocabulary, hidden size.
        chunk_tokens: tokens of a chunk in nemo_pi's loss.
        device: cpu or cuda.
        dtype: of hidden states and weights.
    """

    def __init__(
        self, sizes: tuple[int, int, int], chunk_tokens: int, device: str, dtype: torch.dtype
    ) -> None:
        tokens, vocab, hidden = sizes
        generator = torch.Generator().manual_seed(0)
        self.hidden_NH = torch.randn(tokens, hidden, generator=generator).to(device, dtype).requires_grad_()
        weight_VH = torch.randn(vocab, hidden, generator=generator) / hidden**0.5
        self.weight_VH = weight_VH.to(device, dtype).requires_grad_()
        self.labels_N = torch.randint(0, vocab, (tokens,), generator=generator).to(device)
        self.mask_N = (torch.rand(tokens, generator=generator) > 0.1).float().to(device)
        self.chunk_tokens = chunk_tokens

    def contestants(self) -> dict[str, Callable[[], Tensor]]:
        """Name → the summed loss, a graph to go back through."""
        found: dict[str, Callable[[], Tensor]] = {
            PLAIN: self._megatron,
            "whole logits, torch": self._torch_whole,
            "torch linear_cross_entropy": self._torch_chunked,
            OURS: self._ours,
        }
        if self.hidden_NH.is_cuda:
            try:
                from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
            except ImportError:
                return found
            liger = LigerFusedLinearCrossEntropyLoss(reduction="sum", ignore_index=_IGNORED)
            found["Liger-Kernel"] = lambda: liger(self.weight_VH, self.hidden_NH, self._marked())
        return found

    def step(self, loss: Callable[[], Tensor]) -> tuple[float, Tensor, Tensor]:
        """Forward and backward; the loss and the two gradients."""
        total = loss()
        grad_hidden_NH, grad_weight_VH = torch.autograd.grad(total, (self.hidden_NH, self.weight_VH))
        return float(total.detach()), grad_hidden_NH, grad_weight_VH

    def _ours(self) -> Tensor:
        return weighted_loss_sum(
            self.hidden_NH, self.weight_VH, self.labels_N, self.mask_N, chunk_tokens=self.chunk_tokens
        )

    def _megatron(self) -> Tensor:
        from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

        logits_1NV = (self.hidden_NH @ self.weight_VH.t()).unsqueeze(0)
        loss_1N = vocab_parallel_cross_entropy(logits_1NV, self.labels_N.unsqueeze(0))
        return (loss_1N[0] * self.mask_N).sum()

    def _torch_whole(self) -> Tensor:
        logits_NV = (self.hidden_NH @ self.weight_VH.t()).float()
        return (cross_entropy(logits_NV, self.labels_N, reduction="none") * self.mask_N).sum()

    def _torch_chunked(self) -> Tensor:
        options = torch.nn.LinearCrossEntropyOptions()
        return linear_cross_entropy(
            self.hidden_NH, self.weight_VH, self._marked(), reduction="sum", options=options
        )

    def _marked(self) -> Tensor:
        return self.labels_N.masked_fill(self.mask_N == 0, _IGNORED)


def peak_bytes(work: Work, loss: Callable[[], Tensor]) -> int:
    """Most memory that a step takes beyond what its inputs take."""
    if work.hidden_NH.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work.step(loss)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
    before = _status("VmRSS")
    work.step(loss)
    return _status("VmHWM") - before


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def peak_of_process(name: str, arguments: list[str]) -> int:
    """The peak of one contestant, measured in a new process."""
    command = [sys.executable, "-m", "benchmarks.loss_memory", *arguments, "--peak", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def set_up() -> None:
    """What megatron-core's loss asks for: a world of one rank; and what training does to the allocator."""
    from nemo_pi.parallel import groups
    from nemo_pi.parallel.layout import ParallelLayout

    groups.ensure_process_group()
    groups.initialize(ParallelLayout(), seed=1)


def compare(work: Work, arguments: list[str], rounds: int, device: str) -> None:
    """Measures all contestants and writes the result files."""
    from nemo_pi.parallel.cpu_memory import keep_freed_memory

    contestants = work.contestants()
    peaks = {name: peak_of_process(name, arguments) for name in contestants}
    keep_freed_memory()  # as training on a CPU does
    reference = work.step(contestants[PLAIN])
    differences = {name: _difference(work.step(loss), reference) for name, loss in contestants.items()}
    del reference
    seconds = alternate(
        {name: lambda loss=loss: work.step(loss) for name, loss in contestants.items()},  # type: ignore[misc]
        rounds=rounds,
        warmup=1,
    )
    rows = [
        {
            "loss": name,
            "seconds (quartiles)": spread(seconds[name]).text(),
            "speed against whole logits": ratio(seconds[PLAIN], seconds[name]).text(),
            "peak MiB": round(peaks[name] / 2**20),
            "memory against whole logits": f"{peaks[PLAIN] / peaks[name]:.1f}x less",
            "gradients differ by": f"{differences[name]:.1e}",
        }
        for name in contestants
    ]
    speed = ratio(seconds[PLAIN], seconds[OURS]).text()
    verdict = (
        f"nemo_pi took {peaks[PLAIN] / peaks[OURS]:.1f} times less memory than megatron-core's whole logits "
        f"at {speed} times its speed; fastest: {min(seconds, key=lambda name: spread(seconds[name]).median)}."
    )
    tokens, hidden = work.hidden_NH.shape
    vocab = work.weight_VH.size(0)
    write_results(
        f"loss-memory-{tokens}x{vocab}x{hidden}",
        hardware(device),
        rows,
        verdict,
        notes=[
            f"{tokens} tokens × {vocab} vocabulary × {hidden} hidden, {work.hidden_NH.dtype}, "
            f"chunks of {work.chunk_tokens} tokens, {rounds} alternating rounds",
            "differences: of both gradients from megatron-core's, relative, in the Frobenius norm",
        ],
        raw={"seconds": seconds, "peaks": peaks},
    )


def _difference(result: tuple[float, Tensor, Tensor], reference: tuple[float, Tensor, Tensor]) -> float:
    pairs = list(zip(result[1:], reference[1:], strict=True))
    return max(float((one.float() - other.float()).norm() / other.float().norm()) for one, other in pairs)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--chunk", type=int, default=512, help="tokens of a chunk (model.loss_chunk_size)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--peak", help="measure this contestant's peak and print it (in bytes)")
    given = parser.parse_args()
    set_up()
    work = Work(
        (given.tokens, given.vocab, given.hidden), given.chunk, given.device, getattr(torch, given.dtype)
    )
    if given.peak:
        print(peak_bytes(work, work.contestants()[given.peak]))
        return
    names = ("tokens", "vocab", "hidden", "chunk", "device", "dtype")
    arguments = [text for name in names for text in (f"--{name}", str(getattr(given, name)))]
    compare(work, arguments, given.rounds, given.device)


if __name__ == "__main__":
    main()
