"""All checks of one checkpoint, one after the other."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nemo_pi.checkpoint.files import read_json
from nemo_pi.checkpoint.hf.config import extension_from_config, shape_from_config
from nemo_pi.checkpoint.summary import CheckpointSummary, read_source_config
from nemo_pi.engine.opening import open_engine
from nemo_pi.engine.weights import export_weights
from nemo_pi.errors import CheckpointError, NemoPiError
from nemo_pi.families.export import AUTO
from nemo_pi.families.registry import family_of
from nemo_pi.parallel import groups
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.verification.answers import answer, num_passes, our_tables
from nemo_pi.verification.compare import against_itself, against_truth, angles, layout_beside_truth
from nemo_pi.verification.findings import NOTE, Finding
from nemo_pi.verification.layouts import answer_on_ranks
from nemo_pi.verification.probes import Probes, make_probes
from nemo_pi.verification.reading import reading_findings
from nemo_pi.verification.record import config_findings, differences
from nemo_pi.verification.reference import Reference, reads_anywhere

Passed = Callable[[], None]


@dataclass(frozen=True)
class Request:
    """What is verified, and how."""

    checkpoint: CheckpointSummary
    """Of either kind."""
    against: Path | None = None
    """Folder that transformers reads; None: the checkpoint itself, or what it is exported to."""
    layouts: tuple[tuple[str, ParallelLayout], ...] = ()
    """Beside one rank: name and sizes."""
    dtype: torch.dtype = torch.float32
    """Of our weights and activations."""
    num_tokens: int = 32
    """Of a row."""
    keep: bool = True
    """Whether weights stay in memory between passes; else a layer at a time."""
    seed: int = 0
    """Of tokens and positions."""
    text_BS: Tensor | None = None
    """int64, rows of text to be read as the checkpoint says and otherwise; None: none."""

    @property
    def unit(self) -> float:
        """Relative rounding of one number."""
        return torch.finfo(self.dtype).eps / 2

    def probes(self) -> Probes:
        """What both sides read."""
        extension, shape = self.checkpoint.extension, self.checkpoint.shape
        return make_probes(extension, shape.vocab_size, self.num_tokens, self.seed)


def verify(request: Request, say: Callable[[str], None], passed: Passed = lambda: None) -> list[Finding]:
    """All findings, most telling first.

    Args:
        say: told before each part of the work what it is.
        passed: called as work goes on, `num_steps` times without layouts of several ranks.
    """
    checkpoint, probes = request.checkpoint, request.probes()
    with tempfile.TemporaryDirectory(prefix="nemo-pi-verify-") as name:
        folder = Path(name)
        read, whose = _read_by_transformers(request, folder, say)
        findings = config_findings(checkpoint.path) if checkpoint.kind == "huggingface" else []
        if request.against is not None:
            findings += _same_positions(checkpoint, request.against)
        say(f"transformers' model of {read} in float64")
        each_row = checkpoint.extension.depends_on_length
        reference = Reference(read, request.unit, passed)
        _check_vocabulary(checkpoint, reference.vocab_size, read)
        truth = reference.truth(probes, each_row=each_row)
        ours = our_tables(checkpoint, probes, each_row=each_row)
        findings += angles(ours, truth, probes, whose, each_row=each_row)
        say("our model on one rank")
        answers = answer(
            checkpoint,
            ParallelLayout(),
            probes,
            dtype=request.dtype,
            keep=request.keep,
            export_to=folder / "exported",
            passed=passed,
        )
        if request.text_BS is not None:
            say("text, read in other ways")
            findings += reading_findings(checkpoint, request.text_BS, request.dtype, keep=request.keep)
    groups.destroy()
    findings += against_truth(answers, truth, probes, request.unit, whose)
    findings += against_itself(answers, truth, probes, request.unit)
    for layout_name, layout in request.layouts:
        say(f"our model on {layout.describe()}")
        found = answer_on_ranks(checkpoint.path, layout, probes, dtype=request.dtype, keep=request.keep)
        findings.append(layout_beside_truth(found, truth, probes, request.unit, whose, layout_name))
        findings += against_itself(found, truth, probes, request.unit, layout_name)
    return findings


def num_steps(request: Request) -> int:
    """How often `passed` is called on one rank, about."""
    shape = request.checkpoint.shape
    tensors = len(family_of(shape).tensors(shape))
    rows = len(request.probes().names)
    forwards = rows if request.checkpoint.extension.depends_on_length else 1
    streamed = request.checkpoint.kind == "huggingface"
    return forwards * tensors + num_passes(ParallelLayout()) * (shape.num_layers + 3) * streamed


def _read_by_transformers(request: Request, folder: Path, say: Callable[[str], None]) -> tuple[Path, str]:
    """The folder that transformers reads, and what the table calls it."""
    checkpoint = request.checkpoint
    if request.against is not None:
        return request.against, f"transformers on {request.against.name}"
    own = checkpoint.kind != "huggingface" or _ships(checkpoint)
    if checkpoint.kind == "huggingface" and own and reads_anywhere(checkpoint.path):
        return checkpoint.path, "transformers"
    say("an export, for transformers to read")
    written = folder / "for-transformers"
    architecture = _export(checkpoint, written, AUTO)
    if not reads_anywhere(written):
        others = family_of(checkpoint.shape).same_function(checkpoint.shape)
        if others:
            shutil.rmtree(written)
            architecture = _export(checkpoint, written, family_of(others[0]).architecture)
    return written, f"transformers on our export, a {architecture}"


def _export(checkpoint: CheckpointSummary, folder: Path, architecture: str) -> str:
    """Writes a folder of a whole model; returns the class that it is of."""
    export_weights(
        open_engine(checkpoint, ParallelLayout()),
        folder,
        source_config=read_source_config(checkpoint.path),
        tokenizer_path=None,
        dtype=None,
        architecture=architecture,
        overwrite=False,
    )
    return str(read_json(folder / "config.json")["architectures"][0])


def _ships(checkpoint: CheckpointSummary) -> bool:
    """Whether transformers has a class for the folder's model_type."""
    from transformers import CONFIG_MAPPING

    return read_json(checkpoint.path / "config.json").get("model_type") in CONFIG_MAPPING


def _check_vocabulary(checkpoint: CheckpointSummary, size: int, read: Path) -> None:
    if size != checkpoint.shape.vocab_size:
        raise CheckpointError(
            "--against",
            required=f"a model with the checkpoint's vocabulary of {checkpoint.shape.vocab_size:,}",
            given=f"one of {size:,} ({read})",
            fix="give the folder that computes the same function, or leave --against out",
        )


def _same_positions(checkpoint: CheckpointSummary, against: Path) -> list[Finding]:
    """Whether both folders say the same of positions: another method is another function on purpose."""
    try:
        config = read_json(against / "config.json")
        theirs = extension_from_config(config, shape_from_config(config))
    except NemoPiError:  # a family that transformers alone knows
        return []
    ours = checkpoint.extension
    different = differences(ours, theirs, checkpoint.path.name, against.name)
    if not different:
        return []
    return [Finding("positions", f"those of {against.name}", NOTE, where=different)]
