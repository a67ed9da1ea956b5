"""One part's process: python -m benchmarks.gpu.worker PART DEVICE SMALL; a line of JSON for each case."""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from benchmarks.gpu.parts import BUNDLED, LEAST, Case, parts
from benchmarks.harness import reason, timed
from benchmarks.training.memory import MIB, peak_mib, reset_peak, resident_mib
from benchmarks.training.sizes import SIZES, yaml_keys
from benchmarks.training.worker import own_channel
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.config.load import resolve
from nemo_pi.config.memory import estimate_memory
from nemo_pi.config.resolved import ResolvedRun

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "demo" / "model"
NEW_TOKENS = 16


def run_of(case: Case, world_size: int = 1) -> ResolvedRun:
    """The case as its YAML would resolve."""
    model: dict[str, Any] = {
        "max_position_embeddings": max(case.length, LEAST) if case.size == BUNDLED else case.length,
        "encoder_seq_length": case.length,
        "global_batch_size": 1,
        "micro_batch_size": 1,
        "data": {"data_prefix": ["none"]},
    }
    summary = None
    if case.size == BUNDLED:
        summary = read_summary(MODEL)
    else:
        size = SIZES[case.size]
        window = min(size.window, case.length)
        model |= {**yaml_keys(size.shape), "original_max_position_embeddings": window}
    trainer = {"max_steps": 100, "precision": case.precision}
    return resolve(
        {"model": {**model, **case.model}, "trainer": trainer}, world_size=world_size, summary=summary
    )


def measure(case: Case, device: str, *, small: bool) -> dict[str, Any]:
    """What a case finds, JSON-ready; errors are the caller's."""
    if case.kind == "rotary":
        return _race(case, device, small)
    if case.kind == "generate":
        return _generate(case)
    return _train(case)


def _engine(run: ResolvedRun) -> Any:
    from nemo_pi.engine.engine import MegatronEngine
    from nemo_pi.engine.weights import load_checkpoint_weights
    from nemo_pi.parallel import groups

    groups.ensure_process_group()
    groups.initialize(run.parallel, run.seed)
    engine = MegatronEngine(run.engine)
    if run.checkpoint is not None:
        load_checkpoint_weights(engine, run.checkpoint)
    return engine


def _train(case: Case) -> dict[str, Any]:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    run = run_of(case, world)
    reset_peak()
    before = resident_mib()
    engine = _engine(run)
    engine.start_training()
    engine.set_lr(run.schedule.at(0))
    batch, losses, seconds = _batch(case, run.shape.vocab_size), [], []

    def step() -> None:
        losses.append(engine.forward_backward(batch))
        engine.step()

    seconds = [timed(step) for _ in range(case.steps)]
    return {
        "losses": losses,
        "seconds": min(seconds[1:] or seconds),
        "peak_mib": peak_mib() - before,
        "estimate_mib": estimate_memory(run).total / MIB,
        "backends": engine.backends.describe(),
    }


def _batch(case: Case, vocab_size: int) -> dict[str, Tensor]:
    """One row of tokens that are the same on every device."""
    generator = torch.Generator().manual_seed(1234)
    tokens_1S = torch.randint(0, vocab_size, (1, case.length + 1), generator=generator)
    positions_1S = torch.arange(case.length)[None]
    ends = [0, case.length]
    if case.kind == "packed":
        ends = [0, case.length // 4, case.length // 2, case.length]
        positions_1S = torch.cat([torch.arange(b - a) for a, b in pairwise(ends)])[None]
    cu_seqlens = torch.full((1, case.length + 1), case.length, dtype=torch.int32)
    cu_seqlens[0, : len(ends)] = torch.tensor(ends)
    return {
        "tokens": tokens_1S[:, :-1].contiguous(),
        "labels": tokens_1S[:, 1:].contiguous(),
        "loss_mask": torch.ones(1, case.length),
        "position_ids": positions_1S,
        "cu_seqlens": cu_seqlens,
    }


def _generate(case: Case) -> dict[str, Any]:
    from nemo_pi.engine.megatron_scorer import MegatronScorer
    from nemo_pi.evaluation.generation import GenerationRequest

    run = run_of(case)
    scorer = MegatronScorer(_engine(run), "bundled")
    prompt = _batch(case, run.shape.vocab_size)["tokens"][0, :48].tolist()
    found: list[Any] = []
    seconds = timed(lambda: found.extend(scorer.generate([prompt], GenerationRequest(NEW_TOKENS))))
    return {"tokens": list(found[0].token_ids), "seconds": seconds}


def _race(case: Case, device: str, small: bool) -> dict[str, Any]:
    from benchmarks import rope

    size = ["--quick"] if small else ["--lengths", str(32 * 1024), str(128 * 1024)]
    with tempfile.TemporaryDirectory() as folder:
        rope.main([*size, "--device", device, "--shapes", next(iter(rope.SHAPES)), "--results", folder])
        (file,) = Path(folder).glob("*.json")
        record = json.loads(file.read_text(encoding="utf-8"))
    return {"race": record["rows"], "verdict": record["verdict"], "notes": record["notes"]}


def _clear() -> None:
    """What a case has left: its groups and its memory."""
    from nemo_pi.parallel import groups

    groups.destroy()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run_part(name: str, device: str, *, small: bool, channel: IO[str]) -> None:
    """Every case of a part; one that fails is reported with its reason."""
    (part,) = (one for one in parts(small=small) if one.name == name)
    first = os.environ.get("RANK", "0") == "0"
    for case in part.cases:
        try:
            found = {"ok": True, **measure(case, device, small=small)}
        except Exception as error:  # whatever it is, the others are to be tried
            found = {"ok": False, "reason": reason(error)}
        if first:
            print(json.dumps({"part": name, "case": case.name, **found}), file=channel, flush=True)
        if part.ranks == 1:
            _clear()


def main() -> None:
    """For the process of a part."""
    channel = own_channel()
    name, device, small = sys.argv[1:]
    run_part(name, device, small=small == "small", channel=channel)


if __name__ == "__main__":
    main()
