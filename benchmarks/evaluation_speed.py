"""How fast models are evaluated, beside a plain transformers loop and lm-eval: tokens/s and peak memory.

    python -m benchmarks.evaluation_speed           4,096 and 16,384 tokens, the bundled model
    python -m benchmarks.evaluation_speed --quick   1,024 tokens and one round, to see that it runs

Perplexity over windows that do not overlap, and pass keys, of one model on the same tokens. Every contestant
is a process of its own; they take turns, and a run's memory is its process's peak less what it held with the
model, before the first run.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, Row, hardware, spread, timed, write_results
from nemo_pi.cli.parser import Parser

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "demo" / "model"
LOOP, LM_EVAL = "plain transformers loop", "lm-eval, its Hugging Face backend"
ON_TRANSFORMERS, ON_MEGATRON = "nemo_pi on transformers", "nemo_pi on Megatron"
CONTESTANTS: dict[str, tuple[str, ...]] = {
    "perplexity": (LOOP, LM_EVAL, ON_TRANSFORMERS, ON_MEGATRON),
    "passkey": (LOOP, ON_TRANSFORMERS, ON_MEGATRON),
}
READ = 16384
"""Tokens of a run, in as many windows or documents as it takes."""
_BUSY = 1.5
"""Load above which the machine is called busy: two cores that do nothing else have less before a run."""

Measure = Callable[[], float]
"""Evaluates once: the mean loss, or the keys that were found."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,024 tokens, one round")
    parser.add_argument("--rounds", type=int, help="runs of each contestant (default 3)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write")
    parser.add_argument(
        "--worker", nargs=4, metavar=("TASK", "WHO", "LENGTH", "FOLDER"), help=argparse.SUPPRESS
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Measures, prints and writes the result files."""
    args = parse(arguments)
    if args.worker:
        task, who, length, folder = args.worker
        serve(task, who, int(length), Path(folder))
        return []
    lengths, rounds = ((1024,), 1) if args.quick else ((4096, 16384), 3)
    rounds = args.rounds or rounds
    machine = hardware()
    print(f"evaluation_speed: about {1 if args.quick else 6} min on idle cores.", flush=True)
    rows: list[Row] = []
    raw: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), max(lengths))
        for length in lengths:
            for task, names in CONTESTANTS.items():
                taken = race(task, names, length, rounds, Path(folder))
                raw[f"{task} at {length}"] = taken
                rows += table(task, length, taken)
    busy = machine.load > _BUSY
    notes = [
        f"demo/model (3.7 million parameters) by linear scaling to {max(lengths):,} tokens, fp32, held-out "
        f"text of demo/; {READ:,} tokens a run; contestants alternate, medians of {rounds} with quartiles "
        "after a run that does not count",
        "pass keys: the loop generates the answer greedily, ours reads it off one pass; lm-eval has no such "
        "task; memory is resident memory beyond what was held with the model, before the first run",
        *([f"the machine was busy (load {machine.load}): times say little"] if busy else []),
    ]
    name = "evaluation_speed-quick" if args.quick else "evaluation_speed"
    return write_results(name, machine, rows, verdict(raw, busy), notes=notes, raw=raw, folder=args.results)


def prepare(folder: Path, longest: int) -> None:
    """The model with the longest window, and held-out tokens."""
    for file in MODEL.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    window = config["max_position_embeddings"]
    config["rope_parameters"] |= {"rope_type": "linear", "factor": longest / window}
    config["max_position_embeddings"] = longest
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with lzma.open(ROOT / "demo" / "text" / "heldout.jsonl.xz", "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    (folder / "text.txt").write_text(" ".join(texts)[: 8 * READ], encoding="utf-8")


def race(task: str, names: Sequence[str], length: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Seconds, MiB and result of each run, by contestant; one that fails is left out."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.evaluation_speed", "--worker", task]
    workers = {
        name: subprocess.Popen(
            [*command, name, str(length), str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for name in names
    }
    found: dict[str, Any] = {name: [] for name in names}
    for turn in range(rounds + 1):
        first = turn % len(names)
        for name in [*names[first:], *names[:first]]:
            run = _asked(workers[name])
            if turn and run is not None:  # the first round warms up
                found[name].append(run)
    for worker in workers.values():
        assert worker.stdin is not None
        worker.stdin.close()
        worker.wait()
    return {name: runs for name, runs in found.items() if runs}


def _asked(worker: subprocess.Popen[str]) -> Any:
    assert worker.stdin is not None and worker.stdout is not None
    try:
        print("go", file=worker.stdin, flush=True)
        line = worker.stdout.readline()
    except BrokenPipeError:
        return None
    return json.loads(line) if line else None


def serve(task: str, who: str, length: int, folder: Path) -> None:
    """A contestant's process: a line in, a run, a line out."""
    from benchmarks.training.memory import forget_highest, from_status

    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print is nobody's answer
    measure, tokens = contestant(task, who, length, folder)
    # Before the first run: what a contestant keeps from one to the next is its own.
    before, result = from_status("VmRSS"), [0.0]
    for _ in sys.stdin:
        forget_highest()

        def run(result: list[float] = result) -> None:
            result[0] = measure()

        seconds = timed(run)
        answer = {
            "seconds": seconds,
            "mib": from_status("VmHWM") - before,
            "result": result[0],
            "tokens": tokens,
        }
        print(json.dumps(answer), file=out, flush=True)


def contestant(task: str, who: str, length: int, folder: Path) -> tuple[Measure, int]:
    """What one run of it does, and the tokens that it reads."""
    import torch

    from nemo_pi.data.tokenizer import build_tokenizer
    from nemo_pi.evaluation.tasks.base import TaskContext

    tokenizer = build_tokenizer("huggingface", str(folder))
    count = max(1, READ // length)
    ids = tokenizer.encode((folder / "text.txt").read_text(encoding="utf-8"))[: count * length + 1]
    context = TaskContext(tokenizer, [ids], min(512, length), length, batch_tokens=length)
    if who == LM_EVAL:
        return _lm_eval(folder, tokenizer.decode(ids), length), count * length
    if who == LOOP:
        _model(folder)  # what is loaded is no part of a run
        looped = _loop_perplexity if task == "perplexity" else _loop_passkey
        return torch.inference_mode()(lambda: looped(folder, context, length, count)), count * length
    scorer = _scorer(who, folder)
    chosen = _task(task, length, count)
    plan = chosen.plan(context)

    def measure() -> float:
        result = chosen.run(scorer, plan, lambda *_: None)
        return (
            math.log(result.by_length[length])
            if task == "perplexity"
            else sum(map(sum, result.grid.successes))
        )

    return measure, count * length


def _task(task: str, length: int, count: int) -> Any:
    from nemo_pi.evaluation.tasks.passkey import Passkey
    from nemo_pi.evaluation.tasks.perplexity import Perplexity

    if task == "perplexity":
        return Perplexity(lengths=(length,), stride=length)
    return Passkey(lengths=(length,), depths=(0.0,), trials=count)


def _scorer(who: str, folder: Path) -> Any:
    if who == ON_TRANSFORMERS:
        from nemo_pi.evaluation.huggingface import HuggingFaceScorer

        return HuggingFaceScorer(folder)
    from nemo_pi.checkpoint.summary import read_summary
    from nemo_pi.engine.megatron_scorer import MegatronScorer
    from nemo_pi.engine.opening import open_engine
    from nemo_pi.parallel.layout import ParallelLayout

    return MegatronScorer(open_engine(read_summary(folder), ParallelLayout()), "megatron")


_LOADED: dict[Path, Any] = {}


def _model(folder: Path) -> Any:
    """transformers' model, loaded once."""
    if folder not in _LOADED:
        import torch
        from transformers import AutoModelForCausalLM

        _LOADED[folder] = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return _LOADED[folder]


def _loop_perplexity(folder: Path, context: Any, length: int, count: int) -> float:
    """Windows one by one, whole logits, as most scripts do it."""
    import torch
    from torch.nn.functional import cross_entropy

    total, ids = 0.0, torch.tensor(context.documents[0])
    for number in range(count):
        window = ids[number * length : (number + 1) * length + 1]
        logits_1SV = _model(folder)(window[None, :-1], use_cache=False).logits
        total += float(cross_entropy(logits_1SV[0].float(), window[1:], reduction="sum"))
    return total / (count * length)


def _loop_passkey(folder: Path, context: Any, length: int, count: int) -> float:
    """Documents one by one, answered by transformers' own greedy generation."""
    import torch

    from nemo_pi.evaluation.passkey_text import passkey_document

    found = 0
    for trial in range(count):
        document = passkey_document(context.tokenizer, length, trial, seed=1234, depth=0.0)
        answer = document.token_ids[-document.num_answer_tokens :]
        prompt = torch.tensor([document.token_ids[: -len(answer)]])
        text = _model(folder).generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=len(answer), do_sample=False
        )
        found += tuple(text[0, prompt.size(1) :].tolist()) == answer
    return found


def _lm_eval(folder: Path, text: str, length: int) -> Measure:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=str(folder), device="cpu", dtype="float32", max_length=length, batch_size=1)
    request = Instance("loglikelihood_rolling", {}, (text,), 0)
    tokens = len(model.tok_encode(text))
    return lambda: -model.loglikelihood_rolling([request], disable_tqdm=True)[0] / tokens


def table(task: str, length: int, taken: dict[str, Any]) -> list[Row]:
    """A line for each contestant."""
    rows: list[Row] = []
    for name, runs in taken.items():
        speed = spread(run["tokens"] / run["seconds"] for run in runs)
        rows.append(
            {
                "task": f"{task} at {length:,}",
                "contestant": name,
                "tokens/s": speed.text(0),
                "peak MiB": f"{spread(run['mib'] for run in runs).median:.0f}",
                "result": f"{runs[-1]['result']:.4f}",
            }
        )
    return rows


def verdict(raw: dict[str, Any], busy: bool) -> str:
    """Who was fastest, in one line, unless other programs had the processor."""
    if busy:
        return "No verdict: other programs had the processor."
    said = []
    for what, taken in raw.items():
        speeds = {
            name: spread(run["tokens"] / run["seconds"] for run in runs).median
            for name, runs in taken.items()
        }
        best = max(speeds, key=speeds.__getitem__)
        said.append(f"{what}: {best}")
    return f"Fastest: {'; '.join(said)}."


if __name__ == "__main__":
    main()
