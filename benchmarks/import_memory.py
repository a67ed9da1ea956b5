"""What it takes each rank to import a Llama of 1 GB at TP 1, 2 and 4, beside transformers' own loading.

    python -m benchmarks.import_memory            1.0 GB of bf16 in four shards
    python -m benchmarks.import_memory --quick    20 MB and one round, to see that it runs

Each rank is a process of its own on gloo; contestants take turns. Memory is growth of the process's resident
set from before the model is built, at its highest, mapped pages of the file included: read from the kernel. A
tiny model is loaded first, so that what libraries allocate once does not count.
Time is the slowest rank's, from before the model is built until every page of its weights has been read once:
transformers maps files, and what it has mapped is not there yet. The files are in the disk's
cache. Weights are random numbers of this script's own making.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import transformers
from transformers import AutoModelForCausalLM

from benchmarks.harness import RESULTS, Row, hardware, ratio, spread, write_results
from benchmarks.training.memory import MIB, forget_highest, from_status, return_freed_tensors
from nemo_pi.checkpoint.files import write_json
from nemo_pi.checkpoint.hf.config_write import build_config
from nemo_pi.checkpoint.hf.shards import ShardWriter
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.cli.parser import Parser
from nemo_pi.engine.opening import open_engine
from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.model.options import BuildOptions
from nemo_pi.parallel import groups
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.rope.spec import ContextExtension

LARGE = ModelShape(
    num_layers=16,
    hidden_size=1536,
    ffn_hidden_size=4096,
    num_attention_heads=12,
    num_query_groups=4,
    head_dim=128,
    vocab_size=32000,
)
SMALL = ModelShape(
    num_layers=8,
    hidden_size=256,
    ffn_hidden_size=1024,
    num_attention_heads=8,
    num_query_groups=4,
    head_dim=32,
    vocab_size=4096,
)
TINY = replace(SMALL, num_layers=2, hidden_size=64, ffn_hidden_size=64, vocab_size=64, head_dim=8)
RANKS = (1, 2, 4)
THEIRS = "transformers"
_PAGE = 1024
"""Numbers that lie in one page of memory, at most of 32 bits."""
BOUND = 1.2
"""A rank's peak may be this many times its own part and the largest tensor together."""


@dataclass(frozen=True)
class Taken:
    """What one load took of the rank that it took most of."""

    seconds: float
    """From before the model was built until all of it had been read, the slowest rank."""
    cpu: float
    """Processor seconds of the busiest rank, which other programs on the machine disturb less."""
    peak: float
    """MiB of resident memory at its highest, the fullest rank."""
    part: float
    """MiB of parameters, the fullest rank."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model, one round")
    parser.add_argument("--rounds", type=int, help="loads of each contestant (default 5)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Measures, prints and writes the result files."""
    args = parse(arguments)
    rounds = args.rounds or (1 if args.quick else 5)
    print(f"import_memory: about {1 if args.quick else 4} min.", flush=True)
    torch.set_num_threads(1)
    machine = hardware()
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model", SMALL if args.quick else LARGE)
        write_model(Path(folder) / "tiny", TINY)
        largest, whole = stored_mib(model)
        taken = race(model, rounds)
    notes = [
        f"a random Llama of {whole:,.0f} MiB in bf16, {len(list(RANKS))} layouts, largest tensor "
        f"{largest:.0f} MiB; medians of {rounds} with quartiles, contestants in turn, one thread a rank",
        "allowed: 1.2 × (largest tensor + the rank's part); peaks hold the pages of the file that are mapped",
        "transformers loads the whole model into one process and maps the file where we copy: weights are "
        "pages of the disk's cache until they are written to, and nothing looks whether they are finite",
    ]
    return write_results(
        "import-memory-quick" if args.quick else "import-memory",
        machine,
        table(taken, largest),
        verdict(taken, largest),
        notes=notes,
        raw={name: [vars(one) for one in found] for name, found in taken.items()},
        folder=args.results,
    )


def write_model(folder: Path, shape: ModelShape, dtype: torch.dtype = torch.bfloat16) -> Path:
    """A Hugging Face folder of random weights in shards, made without a model."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    tensors = family_of(shape).tensors(shape)
    total = sum(torch.Size(sizes).numel() for sizes in tensors.values()) * dtype.itemsize
    writer = ShardWriter(folder, tensors, lambda _: dtype, total // 4 + 1)
    for name, sizes in tensors.items():
        writer.add(name, torch.ones(sizes) if len(sizes) == 1 else torch.randn(sizes) * 0.02)
    writer.finish()
    extension = ContextExtension.unscaled(2048, shape.head_dim)
    write_json(folder / "config.json", build_config(shape, extension, None, str(dtype).split(".")[-1]))
    return folder


def stored_mib(model: Path) -> tuple[float, float]:
    """MiB of the largest tensor and of all."""
    summary = read_summary(model)
    width = getattr(torch, summary.dtype).itemsize
    tensors = family_of(summary.shape).tensors(summary.shape)
    sizes = [torch.Size(size).numel() * width / MIB for size in tensors.values()]
    return max(sizes), sum(sizes)


def race(model: Path, rounds: int) -> dict[str, list[Taken]]:
    """Contestant → what each of its loads took; each round begins with another one."""
    contestants: dict[str, Callable[[], Taken]] = {THEIRS: partial(measure, _theirs, model, 1)}
    for ranks in RANKS:
        contestants[f"nemo_pi, TP {ranks}"] = partial(measure, _ours, model, ranks)
    names = list(contestants)
    for name in names:
        contestants[name]()
    taken: dict[str, list[Taken]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(contestants[name]())
    return taken


def measure(load: Callable[[Path, int], Any], model: Path, ranks: int) -> Taken:
    """One load by `ranks` processes."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_rank, (ranks, load, model, folder), nprocs=ranks, start_method="fork")
        found = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
    return Taken(*(max(one[name] for one in found) for name in ("seconds", "cpu", "peak", "part")))


def _rank(rank: int, ranks: int, load: Callable[[Path, int], Any], model: Path, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    groups.initialize(ParallelLayout(tp=ranks), seed=1)
    return_freed_tensors()
    warnings.simplefilter("ignore")
    transformers.utils.logging.disable_progress_bar()
    load(model.parent / "tiny", ranks)
    gc.collect()
    dist.barrier()
    before = from_status("VmRSS")
    forget_highest()
    started, worked = time.perf_counter(), time.process_time()
    held = load(model, ranks)
    for weight in held.parameters():
        weight.detach().flatten()[::_PAGE].sum()
    found = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - worked}
    found["peak"] = from_status("VmHWM") - before
    found["part"] = sum(weight.numel() * weight.element_size() for weight in held.parameters()) / MIB
    Path(f"{folder}/{rank}.json").write_text(json.dumps(found))
    groups.destroy()


def _ours(model: Path, ranks: int) -> Any:
    options = BuildOptions(params_dtype=torch.bfloat16)
    return open_engine(read_summary(model), ParallelLayout(tp=ranks), options).chunks[0]


def _theirs(model: Path, ranks: int) -> Any:
    return AutoModelForCausalLM.from_pretrained(model, local_files_only=True)


def table(taken: dict[str, list[Taken]], largest: float) -> list[Row]:
    """One row a contestant."""
    rows: list[Row] = []
    for name, found in taken.items():
        part = found[0].part
        peak = spread(one.peak for one in found)
        rows.append(
            {
                "load": name,
                "part MiB": round(part),
                "peak MiB": peak.text(0),
                "peak / (part + largest)": round(peak.median / (part + largest), 2),
                "seconds": spread(one.seconds for one in found).text(),
                "CPU seconds": spread(one.cpu for one in found).text(),
            }
        )
    return rows


def verdict(taken: dict[str, list[Taken]], largest: float) -> str:
    """Whether the bound holds, and who was ahead."""
    ours = {name: found for name, found in taken.items() if name != THEIRS}
    shares = [max(one.peak for one in found) / (found[0].part + largest) for found in ours.values()]
    holds = "holds" if max(shares) <= BOUND else "does NOT hold"
    alone = ours["nemo_pi, TP 1"]
    peaks = ratio([one.peak for one in taken[THEIRS]], [one.peak for one in alone])
    seconds = ratio([one.cpu for one in taken[THEIRS]], [one.cpu for one in alone])
    return (
        f"The bound of {BOUND} {holds}: at most {max(shares):.2f} times (part + largest tensor). On one rank "
        f"transformers' peak is {peaks.text()} and its processor time {seconds.text()} times ours."
    )


if __name__ == "__main__":
    main()
