"""What every benchmark shares: alternating runs, medians with their spread, the machine, result files.

Times are wall-clock seconds of finished work (a GPU is waited for). Contestants take turns within each round,
so that a machine that slows down slows all of them; ratios are taken within rounds for the same reason.
"""

from __future__ import annotations

import gc
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from nemo_pi.machine import cpu_kind, cpu_name

RESULTS = Path(__file__).parent / "results"
Row = Mapping[str, Any]
"""One line of a table: column → text or number."""


@dataclass(frozen=True)
class Hardware:
    """The machine that a result belongs to."""

    name: str
    """Processor or GPU, with the cores or devices used."""
    torch: str
    """Version of torch."""
    threads: int
    """CPU threads that torch computes with."""
    load: float
    """Processes that were running or waiting in the minute before (1-minute load average)."""

    @property
    def slug(self) -> str:
        """The name as part of a file's name."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


def hardware(device_type: str = "cpu") -> Hardware:
    """This machine; `device_type` says which part of it computes (cpu or cuda)."""
    threads = torch.get_num_threads()
    if device_type == "cuda":
        name = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    else:
        # Processors of one name differ in what their products can use.
        parts = (cpu_name(), cpu_kind(), torch.backends.cpu.get_cpu_capability())
        name = f"{' '.join(part for part in parts if part)}, {threads} threads"
    return Hardware(name, torch.__version__, threads, round(os.getloadavg()[0], 2))


@dataclass(frozen=True)
class Spread:
    """A median and where the middle half of the values lies."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""
    count: int
    """Values it was taken of."""

    def text(self, digits: int = 2, scale: float = 1.0) -> str:
        """`median (low to high)`, each times `scale`."""
        low, middle, high = (f"{scale * value:.{digits}f}" for value in (self.low, self.median, self.high))
        return f"{middle} ({low} to {high})"


def spread(values: Iterable[float]) -> Spread:
    """Median and quartiles."""
    ordered = sorted(values)
    if len(ordered) < 2:
        return Spread(ordered[0], ordered[0], ordered[0], len(ordered))
    low, middle, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return Spread(middle, low, high, len(ordered))


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Spread:
    """How many times as long they take, round by round: above 1, ours is ahead."""
    return spread(one / other for one, other in zip(theirs, ours, strict=True))


def synchronize() -> None:
    """Waits for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes until it is finished."""
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def alternate(
    contestants: Mapping[str, Callable[[], object]], rounds: int = 9, warmup: int = 2
) -> dict[str, list[float]]:
    """Times all of them `rounds` times in turn, each round starting with another one.

    Returns:
        Seconds of each run by name, in the order of the rounds, so that ratio() can pair them.
    """
    names = list(contestants)
    if not names:
        return {}
    for _ in range(warmup):
        for name in names:
            contestants[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                seconds[name].append(timed(contestants[name]))
    finally:
        if was_enabled:
            gc.enable()
    return seconds


def copy_work(num_bytes: int, device: str | torch.device = "cpu") -> Callable[[], object]:
    """A plain copy that moves `num_bytes` (read and written together), to run among the contestants."""
    source = torch.empty(num_bytes // 8, dtype=torch.float32, device=device).normal_()
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def markdown_table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table, the columns those of the first row; numbers to the right."""
    columns = list(rows[0])
    right = [isinstance(rows[0][column], int | float) for column in columns]
    lines = [columns, ["---:" if is_right else "---" for is_right in right]]
    lines += [[_cell(row[column]) for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write_results(
    name: str,
    machine: Hardware,
    rows: Sequence[Row],
    verdict: str,
    *,
    notes: Sequence[str] = (),
    raw: Any = None,
    plot: Callable[[Path], object] | None = None,
    folder: Path = RESULTS,
    unfinished: str = "",
) -> list[Path]:
    """Writes DATE-NAME-HARDWARE.json, .md and, where `plot` draws one, .png; prints the table and verdict.

    Called after every point, so that a run that is stopped leaves what it measured.

    Args:
        name: of the benchmark.
        machine: from hardware().
        rows: the table.
        verdict: one line that says who was ahead.
        notes: what a reader has to know (what was not installed, the load of the machine).
        raw: everything measured, for the JSON file.
        plot: draws into the path it is given.
        folder: where the files go.
        unfinished: what is still to be measured, for the notes; nothing is printed then.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = _stem(name, machine)
    notes = [*notes, *([f"Not finished: {unfinished}."] if unfinished else [])]
    record = {
        "benchmark": name,
        "date": date.today().isoformat(),
        "hardware": asdict(machine),
        "verdict": verdict,
        "notes": list(notes),
        "rows": [dict(row) for row in rows],
        "raw": raw,
    }
    data, text, image = (folder / f"{stem}.{suffix}" for suffix in ("json", "md", "png"))
    written = [data, text]
    if plot is not None:
        plot(image)
        written.append(image)
    _replace(data, json.dumps(record, indent=1) + "\n")
    lines = [f"# {name}: {machine.name}", "", _header(machine), "", markdown_table(rows), "", verdict, ""]
    lines += [f"- {note}" for note in notes] + ([""] if notes else [])
    lines += [f"![{name}]({image.name})", ""] if plot is not None else []
    _replace(text, "\n".join(lines))
    if not unfinished:
        print(markdown_table(rows), *notes, verdict, sep="\n", flush=True)
    return written


def earlier_today(name: str, machine: Hardware, folder: Path = RESULTS) -> Any:
    """`raw` of the result file that write_results wrote today on this machine; None where there is none."""
    path = folder / f"{_stem(name, machine)}.json"
    return json.loads(path.read_text(encoding="utf-8"))["raw"] if path.exists() else None


def reason(error: BaseException) -> str:
    """An error in one line, for a note about who did not take part."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _stem(name: str, machine: Hardware) -> str:
    return f"{date.today().isoformat()}-{name}-{machine.slug}"


def _replace(path: Path, text: str) -> None:
    """All of it or nothing: a run may be stopped while it writes."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def _header(machine: Hardware) -> str:
    return (
        f"{date.today().isoformat()}, torch {machine.torch}, {machine.threads} CPU threads, "
        f"load before the run {machine.load}"
    )
