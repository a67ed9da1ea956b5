"""examples/search_longrope.py on the bundled model: against transformers, stopped and gone on with."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.cli import search
from nemo_pi.config.load import resolve
from nemo_pi.data.jsonl import find_files, read_lines
from nemo_pi.errors import ConfigError, DataError
from nemo_pi.search.evolution import Evolution

ROOT = Path(__file__).resolve().parents[3]
MODEL, TEXT = ROOT / "demo" / "model", ROOT / "demo" / "text" / "heldout.jsonl.xz"
TARGET, SAMPLES = 1024, 2
SMALL = (
    *("--target-window", str(TARGET), "--samples", str(SAMPLES), "--population", "4", "--iterations", "2"),
    *("--mutations", "2", "--crossovers", "2", "--parents", "3"),
)


def arguments(results: Path, *more: str) -> list[str]:
    return [str(MODEL), "--documents", str(TEXT), "--results", str(results), *SMALL, *more]


def ratings(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (results / search.RATINGS).read_text().splitlines()][1:]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that was stopped at once, and gone on with."""
    results = tmp_path_factory.mktemp("search")
    search.run(arguments=arguments(results, "--minutes", "0"))
    assert len(ratings(results)) == 1
    search.run(arguments=arguments(results))
    return results


def found(results: Path, model: Path = MODEL) -> Any:
    """The plan of a run that takes the YAML as its group `rope`."""
    overrides = [
        f"hydra.searchpath=[file://{results}]",
        *("model=auto", f"rope={search.FOUND}", f"restore_from_path={model}", "dry_run=true"),
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        composed = compose("extend_context", overrides=overrides)
    return resolve(composed, world_size=1, summary=read_summary(model))


def test_the_best_list_is_no_worse_than_any_that_the_search_began_with(searched: Path) -> None:
    rated = ratings(searched)
    assert len(rated) == 4 + 2 * 4
    best = min(rated, key=lambda line: line["perplexity"])
    assert best["perplexity"] <= min(line["perplexity"] for line in rated[:4])
    extension = found(searched).extension
    assert extension.method == "longrope"
    assert (extension.original_window, extension.target_window) == (512, TARGET)
    assert [round(100 * one) for one in extension.extra_args["long_factor"]] == best["hundredths"]


def test_a_search_that_is_not_stopped_finds_the_same(searched: Path, tmp_path: Path) -> None:
    search.run(arguments=arguments(tmp_path))
    assert ratings(tmp_path) == ratings(searched)


def test_ratings_are_perplexities_that_transformers_finds_too(searched: Path) -> None:
    rated = ratings(searched)[5]
    factors = [one / 100 for one in rated["hundredths"]]
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "factor": 2.0,
        "original_max_position_embeddings": 512,
        "short_factor": [1.0] * 32,
        "long_factor": factors,
        "attention_factor": math.sqrt(1 + math.log(2) / math.log(512)),
    }
    config = LlamaConfig.from_pretrained(MODEL, rope_parameters=rope, max_position_embeddings=TARGET)
    model = LlamaForCausalLM.from_pretrained(MODEL, config=config, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    texts = [json.loads(line.raw)["text"] for line in read_lines(find_files(TEXT))][:SAMPLES]
    losses = []
    for text in texts:
        ids = torch.tensor([tokenizer(text, add_special_tokens=False).input_ids[: TARGET + 1]])
        with torch.no_grad():
            logits = model(ids[:, :-1]).logits[0]
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:]))
    expected = math.exp(float(torch.stack(losses).mean()))
    assert rated["perplexity"] == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As if trained by LongRoPE, but for a short list that reads badly."""
    folder = Path(shutil.copytree(MODEL, tmp_path_factory.mktemp("trained") / "model"))
    config = json.loads((folder / "config.json").read_text())
    lists = {"short_factor": [2.0] * 32, "long_factor": [1.0] * 16 + [2.0] * 16}
    config["rope_scaling"] = {"rope_type": "longrope", "original_max_position_embeddings": 512, **lists}
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config |= {"max_position_embeddings": TARGET, "original_max_position_embeddings": 512}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_short_factors_are_searched_for_what_has_been_trained_with_long_ones(
    trained: Path, tmp_path: Path
) -> None:
    flags = [str(trained), "--short", *arguments(tmp_path)[1:]]
    place = flags.index("--target-window")
    search.run(arguments=flags[:place] + flags[place + 2 :])
    rated = ratings(tmp_path)
    as_it_is, ones, long = ([200] * 32, [100] * 32, [100] * 16 + [200] * 16)
    assert [line["hundredths"] for line in rated[:3]] == [as_it_is, ones, long]
    best = min(rated, key=lambda line: line["perplexity"])
    assert best["perplexity"] <= rated[1]["perplexity"] < 0.9 * rated[0]["perplexity"]
    extension = found(tmp_path, trained).extension
    assert (extension.original_window, extension.target_window) == (512, TARGET)
    assert [round(100 * one) for one in extension.extra_args["short_factor"]] == best["hundredths"]
    assert list(extension.extra_args["long_factor"]) == [one / 100 for one in long]
    # The ones, with their temperature, in windows of 512 tokens, as transformers has them.
    losses = []
    rope = json.loads((trained / "config.json").read_text())["rope_scaling"] | {"short_factor": [1.0] * 32}
    rope |= {"rope_theta": 10000.0, "factor": TARGET / 512}
    config = LlamaConfig.from_pretrained(trained, rope_parameters=rope)
    model = LlamaForCausalLM.from_pretrained(trained, config=config, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    for line in list(read_lines(find_files(TEXT)))[:SAMPLES]:
        text = json.loads(line.raw)["text"]
        ids = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids[: TARGET + 1])
        for start in range(0, TARGET, 512):
            with torch.no_grad():
                logits = model(ids[None, start : start + 512]).logits[0]
            losses.append(torch.nn.functional.cross_entropy(logits, ids[start + 1 : start + 513]))
    assert rated[1]["perplexity"] == pytest.approx(math.exp(float(torch.stack(losses).mean())), rel=1e-5)


def test_a_folder_takes_the_short_factors_into_its_config(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["rope_scaling"]["short_factor"] = [1.5] * 32
    (folder / "config.json").write_text(json.dumps(config))
    assert list(read_summary(folder).extension.extra_args["short_factor"]) == [1.5] * 32


@pytest.mark.parametrize(
    ("seconds", "minutes", "said"),
    [
        (2.0, None, "1,344 lists about 45 minutes"),
        (2.0, 60, "1,344 lists about 45 minutes"),
        (2.0, 10, "enough for about 300 of 1,344 lists$"),
        (10.0, 10, "about 60 of 1,344 lists, and 64 are only the first population; --population 16 "),
    ],
)
def test_a_search_says_how_far_its_time_goes(seconds: float, minutes: float | None, said: str) -> None:
    assert re.search(said, search.describe_time(Evolution(), seconds, minutes))


def test_what_cannot_be_searched_is_said_before_a_weight_is_read(tmp_path: Path) -> None:
    def refused(*more: str) -> Any:
        return search.plan(search.parse(arguments=arguments(tmp_path, *more)))

    with pytest.raises(ConfigError, match=r"--target-window: required more than .* 512 tokens"):
        refused("--target-window", "512")
    with pytest.raises(ConfigError, match="--target-window"):
        refused("--target-window", "300")
    with pytest.raises(ConfigError, match=r"--samples: required 1 or more"):
        refused("--samples", "0")
    with pytest.raises(ConfigError, match=r"--minutes: required 0 or more"):
        refused("--minutes", "-1")
    with pytest.raises(DataError, match="a document of more than 900,000 tokens"):
        refused("--target-window", "900000")
    with pytest.raises(ConfigError, match="--short: required a checkpoint that was extended by longrope"):
        refused("--short")
    with pytest.raises(ConfigError, match="--documents"):
        refused("--documents", str(tmp_path / "none"))
