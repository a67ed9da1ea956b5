"""examples/generate.py on one rank and on two, against transformers: the same text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from tests.integration.launch import GENERATE, Finished, launch
from tests.integration.world import World

PROMPT = (
    "And it came to pass in those days that the sun was darkened, and there was a great storm upon the sea"
)
NEW = 90
TP2 = ("--tensor-model-parallel-size", "2")


def start(model: Path, folder: Path, *flags: str, ranks: int = 1, prompt: str = PROMPT) -> Finished:
    """Runs examples/generate.py."""
    arguments = ["--model", str(model), "--prompt", prompt, "--max-new-tokens", str(NEW), *flags]
    return launch(arguments, folder=folder, ranks=ranks, script=GENERATE)


def generated(*args: object, **kwargs: object) -> str:
    """What it writes on standard output."""
    finished = start(*args, **kwargs)  # type: ignore[arg-type]
    finished.check()
    return finished.out


def by_transformers(folder: Path) -> str:
    """Greedy, and without the cache that keeps keys at an older base."""
    tokenizer = build_tokenizer("huggingface", str(folder))
    prompt = torch.tensor([tokenizer.encode(PROMPT)])
    model = HuggingFaceScorer(folder, device="cpu").model
    text = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=NEW,
        do_sample=False,
        use_cache=False,
        eos_token_id=tokenizer.eod_id,
        pad_token_id=tokenizer.eod_id,
    )
    return tokenizer.decode(text[0, prompt.size(1) :].tolist()) + "\n"


@pytest.fixture(scope="module")
def dynamic(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random start model, read with dynamic NTK scaling from 64 to 256 tokens."""
    folder = Path(shutil.copytree(world.models["untied"], tmp_path_factory.mktemp("models") / "dynamic"))
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_distributed_checkpoint_on_two_ranks_writes_what_its_export_does(
    world: World, tmp_path: Path
) -> None:
    run = world.reference()
    checkpoint = run.logs / "checkpoints" / f"step_{run.checkpoints[-1]:08d}"
    expected = by_transformers(run.exported)
    assert generated(run.exported, tmp_path / "one") == expected
    assert generated(checkpoint, tmp_path / "two", *TP2, ranks=2) == expected


def test_padding_of_a_vocabulary_is_never_drawn(world: World, tmp_path: Path) -> None:
    """With a cache, and by whole passes: the last ids are of no token."""
    flags = ("--max-new-tokens", "16", "--temperature", "50", "--seed", "3")
    one = generated(world.models["odd"], tmp_path / "one", *flags)
    assert generated(world.models["odd"], tmp_path / "two", *TP2, *flags, ranks=2) == one
    stages = ("--pipeline-model-parallel-size", "2")
    assert generated(world.models["odd"], tmp_path / "four", *TP2, *stages, *flags, ranks=4) == one


@pytest.mark.parametrize("shared", ["pipeline-model", "context"])
def test_stages_and_shared_sequences_write_the_same(shared: str, dynamic: Path, tmp_path: Path) -> None:
    flags = ("--max-new-tokens", "24", f"--{shared}-parallel-size", "2")
    by_two = generated(dynamic, tmp_path / "two", *flags, ranks=2)
    assert by_two == generated(dynamic, tmp_path / "one", *flags[:2])


def test_dynamic_ntk_on_two_ranks_beyond_the_original_window(dynamic: Path, tmp_path: Path) -> None:
    expected = by_transformers(dynamic)
    assert generated(dynamic, tmp_path / "greedy", *TP2, ranks=2) == expected
    drawn = ("--temperature", "1.2", "--top-k", "50", "--top-p", "0.95", "--seed", "5")
    one = generated(dynamic, tmp_path / "one", *drawn, "--no-cache")
    assert generated(dynamic, tmp_path / "two", *drawn, *TP2, ranks=2) == one != expected


@pytest.mark.parametrize(
    ("prompt", "flags", "ranks", "message"),
    [
        (
            200 * "storm ",
            (),
            1,
            "DataError: prompt: required from 1 token to fewer than the model's window, 256",
        ),
        (110 * "storm ", (), 1, "ConfigError: max_new_tokens: required from 1 to"),
        ("storm", (), 2, "ConfigError: --tensor-model-parallel-size: required 2, the number of ranks"),
        ("storm", ("--top-k", "5"), 1, "ConfigError: temperature"),
    ],
)
def test_what_cannot_be_is_refused(
    prompt: str, flags: tuple[str, ...], ranks: int, message: str, dynamic: Path, tmp_path: Path
) -> None:
    finished = start(dynamic, tmp_path / "run", *flags, ranks=ranks, prompt=prompt)
    assert finished.statuses == (2,) * ranks
    assert message in finished.err and "Traceback" not in finished.err
