"""The loss from hidden states to gradients: time and peak memory, in chunks against whole logits.

    python -m benchmarks.loss_memory           32,768 tokens x 32,768 entries x 256 channels
    python -m benchmarks.loss_memory --quick   a few seconds, to see that it runs

Every contestant gets the same hidden states, output weights, labels and mask (a tenth left out), and makes
the gradients of the first two. Times alternate in one process; each peak is that of a process of its own.
Whoever fails is left out, with the reason.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear_cross_entropy

from benchmarks.harness import RESULTS, Row, alternate, hardware, ratio, spread, write_results
from benchmarks.training.estimate import announce, gemm_flops_per_second, loading_seconds
from benchmarks.training.figures import Bars, draw_bars
from benchmarks.training.session import ROOT
from nemo_pi.cli.parser import Parser
from nemo_pi.model.chunked_loss import weighted_loss_sum
from nemo_pi.parallel.cpu_memory import keep_freed_memory

PLAIN = "whole logits, megatron-core"
OURS = "nemo_pi"
MIB = 2**20
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
    """The peak of one contestant, measured in a new process.

    Raises:
        RuntimeError: it failed, e.g. for want of memory.
    """
    command = [sys.executable, "-m", "benchmarks.loss_memory", *arguments, "--peak", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise RuntimeError(f"its process ended with status {done.returncode} {last}".strip())
    return int(done.stdout.splitlines()[-1])


def peaks_of(names: Iterable[str], arguments: list[str]) -> tuple[dict[str, int], dict[str, str]]:
    """The peak of everyone who can, and why the others cannot."""
    peaks, absent = {}, {}
    for name in names:
        try:
            peaks[name] = peak_of_process(name, arguments)
            print(f"{name}: {peaks[name] / MIB:.0f} MiB at most", flush=True)
        except RuntimeError as error:
            absent[name] = str(error)
    return peaks, absent


def set_up() -> None:
    """What megatron-core's loss asks for: a world of one rank."""
    from nemo_pi.parallel import groups
    from nemo_pi.parallel.layout import ParallelLayout

    groups.ensure_process_group()
    groups.initialize(ParallelLayout(), seed=1)


def estimate(work: Work, rounds: int) -> float:
    """Seconds for all of it: one step for each peak, one to compare, then the rounds, of all contestants."""
    if work.hidden_NH.is_cuda:
        return 60.0
    tokens, hidden = work.hidden_NH.shape
    logits = tokens * work.weight_VH.size(0)
    # Three matrix products, at about two thirds of their speed because of what comes between them.
    seconds = 6.0 * logits * hidden / (0.66 * gemm_flops_per_second())
    return len(work.contestants()) * ((rounds + 2) * seconds + loading_seconds(1))


def compare(work: Work, given: argparse.Namespace, arguments: list[str]) -> list[Path]:
    """Measures all contestants and writes the result files."""
    announce("loss_memory", estimate(work, given.rounds))
    peaks, absent = peaks_of(work.contestants(), arguments)
    if not work.hidden_NH.is_cuda:
        keep_freed_memory()  # as training on a CPU does
    contestants = {name: loss for name, loss in work.contestants().items() if name in peaks}
    differences = differences_from_first(work, contestants)
    seconds = alternate(
        {name: partial(work.step, loss) for name, loss in contestants.items()},
        rounds=given.rounds,
        warmup=0,  # comparing them was one
    )
    tokens, hidden = work.hidden_NH.shape
    vocab = work.weight_VH.size(0)
    return write_results(
        f"loss-memory-{tokens}x{vocab}x{hidden}",
        hardware("cuda" if work.hidden_NH.is_cuda else "cpu"),
        table(seconds, peaks, differences),
        verdict(seconds, peaks),
        notes=[
            f"{tokens} tokens × {vocab} vocabulary × {hidden} hidden, {work.hidden_NH.dtype}, "
            f"chunks of {work.chunk_tokens} tokens, {given.rounds} alternating rounds",
            "differences: of both gradients from megatron-core's, relative, in the Frobenius norm",
            *(f"{name} did not take part: {why}." for name, why in absent.items()),
        ],
        raw={"seconds": seconds, "peaks": peaks},
        plot=partial(draw, seconds, peaks),
        folder=given.results,
    )


def differences_from_first(work: Work, contestants: dict[str, Callable[[], Tensor]]) -> dict[str, float]:
    """How far everyone's gradients are from those of the first, whole logits where they fit into memory."""
    reference: tuple[float, Tensor, Tensor] | None = None
    found = {}
    for name, loss in contestants.items():
        result = work.step(loss)
        reference = reference or result
        found[name] = _difference(result, reference)
    return found


def table(seconds: dict[str, list[float]], peaks: dict[str, int], differences: dict[str, float]) -> list[Row]:
    """One line for each contestant."""
    plain = PLAIN in seconds
    return [
        {
            "loss": name,
            "seconds (quartiles)": spread(seconds[name]).text(),
            "speed against whole logits": ratio(seconds[PLAIN], seconds[name]).text() if plain else "",
            "peak MiB": round(peaks[name] / MIB),
            "memory against whole logits": f"{peaks[PLAIN] / peaks[name]:.1f}x less" if plain else "",
            "gradients differ by": f"{differences[name]:.1e}",
        }
        for name in seconds
    ]


def verdict(seconds: dict[str, list[float]], peaks: dict[str, int]) -> str:
    """One line: who was ahead, and nemo_pi beside whole logits."""
    if not seconds:
        return "Nobody was ahead: nobody could take part."
    fastest = min(seconds, key=lambda name: spread(seconds[name]).median)
    ahead = f"Ahead in time: {fastest}; in memory: {min(peaks, key=lambda name: peaks[name])}"
    if PLAIN not in seconds or OURS not in seconds:
        return f"{ahead}."
    speed = ratio(seconds[PLAIN], seconds[OURS]).text()
    return (
        f"{ahead}; nemo_pi takes {peaks[PLAIN] / peaks[OURS]:.1f} times less memory than megatron-core's "
        f"whole logits at {speed} times its speed."
    )


def draw(seconds: dict[str, list[float]], peaks: dict[str, int], path: Path) -> Path:
    """Time and memory of everyone."""
    names = list(seconds)
    panels = [
        Bars("seconds, forward and backward", names, {"": [spread(seconds[name]).median for name in names]}),
        Bars("peak memory above the inputs (MiB)", names, {"": [peaks[name] / MIB for name in names]}),
    ]
    return draw_bars(path, "The loss from hidden states to gradients", "medians of alternating runs", panels)


def _difference(result: tuple[float, Tensor, Tensor], reference: tuple[float, Tensor, Tensor]) -> float:
    pairs = list(zip(result[1:], reference[1:], strict=True))
    return max(float((one.float() - other.float()).norm() / other.float().norm()) for one, other in pairs)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="512 tokens x 1,024 entries x 64 channels")
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--chunk", type=int, default=512, help="tokens of a chunk (model.loss_chunk_size)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write")
    parser.add_argument("--peak", help=argparse.SUPPRESS)  # a contestant: its peak in bytes, and nothing else
    given = parser.parse_args(arguments)
    if given.quick:
        given.tokens, given.vocab, given.hidden, given.chunk = 512, 1024, 64, 128
    return given


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Measures and writes the results."""
    given = parse(arguments)
    set_up()
    sizes = given.tokens, given.vocab, given.hidden
    work = Work(sizes, given.chunk, given.device, getattr(torch, given.dtype))
    if given.peak:
        print(peak_bytes(work, work.contestants()[given.peak]))
        return []
    names = ("tokens", "vocab", "hidden", "chunk", "device", "dtype")
    same_work = [text for name in names for text in (f"--{name}", str(getattr(given, name)))]
    return compare(work, given, same_work)


if __name__ == "__main__":
    main()
