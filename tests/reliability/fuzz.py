"""Files and words made at random: whatever they are, they are read, or refused by an error of ours.

    python -m tests.reliability.fuzz --minutes 60  # writes docs/fuzzing.md

Half of the inputs are sound files with values changed where they stand, the others sound files with bytes
flipped, cut out, repeated or put in.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import pickle
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch.distributed import checkpoint as dcp

from nemo_pi.errors import NemoPiError
from tests.reliability.limits import memory

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "fuzzing.md"
MODEL = ROOT / "demo" / "model"
MOST_MIB = 400.0
"""That the process may grow by over all inputs; sound ones take some memory, too."""

# ---- what inputs are made of --------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-3, max_value=9),
    st.sampled_from([2**16, 2**31, 2**40, 2**63, 2**64, 10**30, 10**400, -(2**40)]),
    st.sampled_from([0.0, -0.0, 1e-320, 1e-9, 0.5, 1e30, 1e300, float("inf"), float("nan")]),
    st.sampled_from(["", "x", "true", "1e3", "???", "${a}", "${oc.env:HOME}", "../x", "/proc/x", "~", "\0"]),
    st.sampled_from(["linear", "yarn", "llama3", "dynamic", "longrope", "silu", "gelu", "llama", "mistral"]),
    st.text(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)


def paths(values: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of everything in nested mappings and lists."""
    found = [above] if above else []
    inner = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    for key, value in inner:
        found += paths(value, (*above, key))
    return found


@st.composite
def changed(draw: Any, base: Any, extra: tuple[str, ...] = ()) -> Any:
    """A copy of nested values with up to four of them replaced, removed or added."""
    values = json.loads(json.dumps(base))
    for _ in range(draw(st.integers(min_value=1, max_value=4))):
        places = paths(values)
        if not places:  # all of it was removed
            break
        *above, last = draw(st.sampled_from(places))
        inside = functools.reduce(lambda part, key: part[key], above, values)
        what = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if what == "remove":
            del inside[last]
        elif what == "add" and isinstance(inside, dict):
            inside[draw(st.one_of(st.sampled_from(extra or ("x",)), st.text(max_size=6)))] = draw(VALUES)
        else:
            inside[last] = draw(VALUES)
    return values


@st.composite
def damaged(draw: Any, base: bytes) -> bytes:
    """A copy of some bytes with up to six changes."""
    data = bytearray(base)
    for _ in range(draw(st.integers(min_value=1, max_value=6))):
        at = draw(st.integers(min_value=0, max_value=max(0, len(data) - 1)))
        length = draw(st.sampled_from([1, 1, 2, 4, 8, 60]))
        what = draw(st.sampled_from(["set", "flip", "cut", "repeat", "insert", "end"]))
        if what == "set":
            data[at : at + length] = draw(st.sampled_from([b"\0", b"\xff", b"\x7f", b"0", b"."])) * length
        elif what == "flip" and data:
            data[at] ^= 1 << draw(st.integers(min_value=0, max_value=7))
        elif what == "cut":
            del data[at : at + length]
        elif what == "repeat":
            data[at:at] = data[at : at + length] * draw(st.sampled_from([1, 2, 50]))
        elif what == "insert":
            data[at:at] = draw(st.binary(max_size=12))
        else:
            del data[at:]
    return bytes(data)


# ---- sound files --------------------------------------------------------------------------------


@functools.cache
def sound() -> Path:
    """A folder with a small distributed checkpoint, torch's listing and archive, and an index."""
    from nemo_pi.checkpoint.manifest import build_manifest, file_entries
    from nemo_pi.checkpoint.summary import read_summary
    from nemo_pi.data.indexed import write_index

    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    summary = read_summary(MODEL)
    shape = summary.shape
    state = {
        "embedding.word_embeddings.weight": torch.zeros(shape.vocab_size, shape.hidden_size),
        "decoder.layers.weight": torch.zeros(4, 1_000_000),
        "object": [1, "x"],
    }
    dcp.save(state, checkpoint_id=folder / "distributed", no_dist=True)
    torch.save({"a": torch.arange(6.0), "b": [1, ("c", None)], "d": {"e": 1e-3}}, folder / "common.pt")
    shutil.copy(folder / "common.pt", folder / "distributed" / "common.pt")
    meta = {"shape": shape.to_dict(), "extension": summary.extension.to_dict()}
    meta |= {"global_step": 3, "consumed_samples": 6, "window_source": "x"}
    names = sorted(path.name for path in (folder / "distributed").iterdir())
    manifest = build_manifest(meta, file_entries(folder / "distributed", names))
    (folder / "distributed" / "nemo_pi.json").write_text(json.dumps(manifest))
    shutil.copytree(MODEL, folder / "model")
    write_index(folder / "tokens.idx", np.uint16, [3, 1, 4])
    (folder / "tokens.bin").write_bytes(np.arange(8, dtype=np.uint16).tobytes())
    return folder


@functools.cache
def bytes_of(name: str) -> bytes:
    """A sound file."""
    return (sound() / name).read_bytes()


@functools.cache
def json_of(path: Path) -> Any:
    """A sound JSON file."""
    return json.loads(path.read_text())


def base_yaml() -> dict[str, Any]:
    """A run that can be planned."""
    model = {"num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 128, "num_attention_heads": 4}
    model |= {"vocab_size": 128, "max_position_embeddings": 256, "original_max_position_embeddings": 64}
    model |= {"pos_scaling_type": "yarn", "pos_scaling_extra_args": {"beta_fast": 16}}
    model |= {"data": {"data_prefix": None, "splits_string": "8,1,1", "pose": {"sampler": "paper"}}}
    model |= {"optim": {"lr": 1e-4, "betas": [0.9, 0.95], "sched": {"warmup_steps": 2}}, "export": {}}
    trainer = {"max_steps": 9, "devices": 1, "precision": "32-true", "limit_val_batches": 2}
    return {"name": "a", "dry_run": True, "trainer": trainer, "exp_manager": {"exp_dir": "r"}, "model": model}


# ---- targets ------------------------------------------------------------------------------------


def config_json(data: bytes, folder: Path) -> None:
    """A Hugging Face folder with this config.json."""
    from nemo_pi.checkpoint.summary import read_source_config, read_summary

    for path in (sound() / "model").iterdir():
        os.link(path, folder / path.name)
    (folder / "config.json").unlink()
    (folder / "config.json").write_bytes(data)
    read_source_config(read_summary(folder).path)


def manifest(data: bytes, folder: Path) -> None:
    """A distributed checkpoint with this nemo_pi.json."""
    from nemo_pi.checkpoint.retention import complete_checkpoints
    from nemo_pi.checkpoint.summary import read_source_config, read_summary

    inner = folder / "step_00000003"
    inner.mkdir()
    for path in (sound() / "distributed").iterdir():
        (inner / path.name).symlink_to(path)
    (inner / "nemo_pi.json").unlink()
    (inner / "nemo_pi.json").write_bytes(data)
    complete_checkpoints(folder)
    read_source_config(read_summary(inner).path)


def metadata(data: bytes, folder: Path) -> None:
    """A `.metadata` of torch's."""
    from nemo_pi.checkpoint.safe_pickle import read_metadata

    (folder / ".metadata").write_bytes(data)
    read_metadata(folder / ".metadata")


def archive(data: bytes, folder: Path) -> None:
    """A `common.pt`."""
    from nemo_pi.checkpoint.safe_pickle import load_archive

    load_archive(io.BytesIO(data), "common.pt")


def index(data: bytes, folder: Path) -> None:
    """An `.idx`, beside sound tokens."""
    from nemo_pi.data.indexed import read_index

    (folder / "tokens.idx").write_bytes(data)
    (folder / "tokens.bin").symlink_to(sound() / "tokens.bin")
    read_index(folder / "tokens", vocab_size=8)


def jsonl(data: bytes, folder: Path) -> None:
    """Lines of text, plain or compressed."""
    from nemo_pi.data.preprocess import PreprocessConfig, preprocess

    name = "a.jsonl.gz" if data[:2] == b"\x1f\x8b" else "a.jsonl"
    (folder / name).write_bytes(data)
    preprocess(PreprocessConfig(input=str(folder / name), output_prefix=str(folder / "out")))


def safetensors(data: bytes, folder: Path) -> None:
    """A safetensors file, its header above all."""
    from nemo_pi.checkpoint.hf.folder import HuggingFaceWeights

    (folder / "model.safetensors").write_bytes(data)
    weights = HuggingFaceWeights(folder)
    for name in weights.sizes:
        weights.read(name)


def run_yaml(values: Any, folder: Path) -> None:
    """A run's configuration."""
    from omegaconf import OmegaConf

    from nemo_pi.config.plain import plain
    from nemo_pi.nemo.run import run

    cfg = OmegaConf.create(values if isinstance(values, dict) else {})
    plain(cfg)
    if cfg.get("dry_run") is True:
        run(cfg)


def yaml_text(data: bytes, folder: Path) -> None:
    """A YAML file, as Hydra composes it."""
    from nemo_pi.cli.evaluate_arguments import compose

    (folder / "main.yaml").write_bytes(data)
    compose(folder, "main", ())


def overrides(words: list[str], folder: Path) -> None:
    """Words of a command line over a run's YAML."""
    from nemo_pi.cli.evaluate_arguments import parse
    from nemo_pi.config.overrides import as_hydra

    for word in words:
        as_hydra(word, sweeps=True)
    parse(None, ["demo/model", *(word for word in words if not word.startswith("-"))])


def gguf(data: bytes, folder: Path) -> None:
    """The header of a GGUF file."""
    from nemo_pi.checkpoint.hf.gguf_header import check_gguf

    (folder / "a.gguf").write_bytes(data)
    try:
        check_gguf(folder / "a.gguf")
    except ValueError as error:  # what its caller makes an error of ours of
        raise NemoPiError("a.gguf", required="GGUF", given=error, fix="copy it again") from error


def as_json(values: Any) -> bytes:
    """Values as a file; numbers that JSON has no words for as Python writes them."""
    return json.dumps(values).encode()


_LINE = st.one_of(
    VALUES.map(as_json), changed({"text": "some text", "n": [1]}).map(as_json), st.binary(max_size=40)
)
_WORD = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "+", "++", "~"]),
    st.one_of(
        st.sampled_from(["tasks.perplexity.stride", "tasks", "documents", "model", "tasks.passkey.depths"]),
        st.text(alphabet="ab.@/:_", max_size=5),
    ),
    st.sampled_from(["=", "", "=="]),
    st.one_of(
        st.text(alphabet="ab0.,:[]{}()'\"\\$ =~\t", max_size=12),
        VALUES.map(lambda value: json.dumps(value)[:60]),
        st.sampled_from(["range(1,3)", "${a}", "[" * 40, "null", "1,2"]),
    ),
)
_YAML = b"""models: [a, b]  # two
documents: &d /a/b.jsonl
tasks:
  perplexity: {lengths: [512, 1024], stride: 256}
  passkey:
    depths: [0.0, 0.5]
    seed: 1234
results: ${documents}
tokenizer: *d
"""
_ROPE = ("rope_scaling", "rope_parameters", "head_dim", "sliding_window", "layer_types", "nemo_pi_extension")


def _inputs() -> dict[str, tuple[Callable[..., None], Any]]:
    config, nemo = json_of(MODEL / "config.json"), json_of(sound() / "distributed" / "nemo_pi.json")
    config = {
        **config,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
        "max_position_embeddings": 2048,
    }
    tensors = save({"a": torch.arange(6.0), "b": torch.zeros(2, 3, dtype=torch.bfloat16)})
    listing = bytes_of("distributed/.metadata")
    entry = b"\x14\0\0\0\0\0\0\0general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama"
    blocks = b"\x11\0\0\0\0\0\0\0llama.block_count\x04\0\0\0\x02\0\0\0"
    tokens = b"\x06\0\0\0\0\0\0\0tokens\x09\0\0\0\x08\0\0\0\x02\0\0\0\0\0\0\0" + b"\x01\0\0\0\0\0\0\0a" * 2
    head = b"GGUF\x03\0\0\0" + (4).to_bytes(8, "little") + (3).to_bytes(8, "little")
    return {
        "config.json": (
            config_json,
            st.one_of(changed(config, _ROPE).map(as_json), damaged(as_json(config))),
        ),
        "manifest": (manifest, st.one_of(changed(nemo).map(as_json), damaged(as_json(nemo)))),
        ".metadata": (metadata, st.one_of(damaged(listing), damaged(pickle.dumps(pickle.loads(listing))))),
        "common.pt": (archive, damaged(bytes_of("common.pt"))),
        ".idx": (index, damaged(bytes_of("tokens.idx"))),
        "JSONL": (jsonl, st.lists(_LINE, min_size=1, max_size=4).map(b"\n".join)),
        "safetensors": (safetensors, damaged(tensors)),
        "run YAML": (run_yaml, changed(base_yaml(), ("seed", "family", "rope", "data", "tokenizer"))),
        "YAML text": (yaml_text, damaged(_YAML)),
        "overrides": (overrides, st.lists(_WORD, min_size=1, max_size=3)),
        "GGUF header": (gguf, damaged(head + entry + blocks + tokens)),
    }


@dataclass
class Tally:
    """What came of one target's inputs."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """Class of the error → inputs; `read` for those that were taken."""
    slowest: float = 0.0
    """Seconds of the input that took longest, of processor time."""

    @property
    def inputs(self) -> int:
        """All of them."""
        return sum(self.outcomes.values())


NAMES = (
    *("config.json", "manifest", ".metadata", "common.pt", ".idx", "JSONL", "safetensors"),
    *("run YAML", "YAML text", "overrides", "GGUF header"),
)


def fuzz(name: str, examples: int, number: int | None = None, tally: Tally | None = None) -> Tally:
    """Tries `examples` inputs of a target.

    Args:
        name: of NAMES.
        examples: how many.
        number: seeds their making; None: always the same ones.
        tally: what earlier calls have counted.

    Raises:
        Exception: whatever an input raised that is no error of ours, with the smallest such input found.
    """
    target, strategy = _inputs()[name]
    counted = tally or Tally()

    @settings(
        max_examples=examples,
        derandomize=number is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(made=strategy)
    def check(made: Any) -> None:
        folder, started = Path(tempfile.mkdtemp(prefix="fuzz-")), time.process_time()
        before, place = sys.stdout, os.getcwd()
        sys.stdout = io.StringIO()
        os.chdir(folder if name == "run YAML" else ROOT)
        try:
            target(made, folder)
            counted.outcomes["read"] += 1
        except NemoPiError as error:
            assert error.field and error.required and error.fix
            counted.outcomes[type(error).__name__] += 1
        except SystemExit as ended:
            assert ended.code == 2
            counted.outcomes["status 2"] += 1
        finally:
            os.chdir(place)
            sys.stdout = before
            shutil.rmtree(folder, ignore_errors=True)
            counted.slowest = max(counted.slowest, time.process_time() - started)

    (check if number is None else seed(number)(check))()
    return counted


def main() -> None:
    """Tries inputs of all targets in turn until the time is over, and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--report", type=Path, default=DOCS)
    args = parser.parse_args()
    tallies: dict[str, Tally] = {name: Tally() for name in NAMES}
    fuzz(NAMES[0], 2)  # imports
    before, started, number = memory()["VmRSS"], time.monotonic(), int(time.time())
    faults: list[str] = []
    while (spent := time.monotonic() - started) < 60 * args.minutes:
        for name in NAMES:
            number += 1
            try:
                fuzz(name, 100, number, tallies[name])
            except Exception as error:
                faults.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
                print(f"{name}, seed {number}: {error!r}", flush=True)
        grown = (memory()["VmHWM"] - before) / 1024
        args.report.write_text(report(tallies, spent, grown, faults), encoding="utf-8")
        print(f"{spent / 60:.1f} min, {sum(t.inputs for t in tallies.values()):,} inputs", flush=True)


def report(tallies: dict[str, Tally], seconds: float, grown_mib: float, faults: list[str]) -> str:
    """docs/fuzzing.md."""
    total = sum(tally.inputs for tally in tallies.values())
    lines = [
        "# Fuzzing",
        "",
        "For those who ask what a damaged or hostile file can do: inputs made at random, and what came of",
        "each. `make fuzz MINUTES=60` runs it and writes this page; `make test` tries some, always the same.",
        "",
        f"Last run: {date.today().isoformat()}, {seconds / 60:.0f} minutes, {total:,} inputs; "
        f"memory grew by {grown_mib:.0f} MiB.",
        "",
        "| target | inputs | read | refused by | slowest, s of processor time |",
        "| --- | ---: | ---: | --- | ---: |",
    ]
    for name, tally in tallies.items():
        kinds = ((kind, count) for kind, count in tally.outcomes.most_common() if kind != "read")
        refused = ", ".join(f"{kind} {count:,}" for kind, count in kinds)
        read = tally.outcomes["read"]
        lines.append(f"| {name} | {tally.inputs:,} | {read:,} | {refused or '–'} | {tally.slowest:.2f} |")
    lines += [
        "",
        "Inputs that ended in anything else than an error of ours: "
        + (f"{len(faults)}." if faults else "none."),
    ]
    lines += [f"* {fault}".replace("\n", " ") for fault in faults[:20]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
