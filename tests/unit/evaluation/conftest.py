"""Tiny tokenizers, Hugging Face models and a look at figures that the tests of this package share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from nemo_pi.evaluation import bar_plots, heat_maps, plots, style
from nemo_pi.evaluation.huggingface import HuggingFaceScorer

WORDS = (
    "There is a green sky where we go again and the yellow sun is a key hidden in blue grass. Remember it."
)


class ByteTokenizer:
    bos_id: int | None = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


# What stands in tokenizer.json of Llama 3 and of Qwen 2: digits by threes, or one by one, and the space
# before a number is a token of its own.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def splitting(digits: str) -> pre_tokenizers.PreTokenizer:
    """Llama 3's pre-tokenizer with digits="{1,3}", Qwen 2's with ""."""
    split = pre_tokenizers.Split(Regex(SPLIT.format(digits=digits)), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])


class BpeTokenizer:
    bos_id: int | None = None
    eod_id: int | None = None

    def __init__(self, pre_tokenizer: pre_tokenizers.PreTokenizer, groups: bool = False) -> None:
        self.tokenizer = Tokenizer(models.BPE())
        self.tokenizer.pre_tokenizer = pre_tokenizer
        alphabet = sorted({*pre_tokenizers.ByteLevel.alphabet(), *"0123456789\n", *WORDS})
        size = 1600 if groups else 400
        trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
        numbers = [f"{number:03}" for number in range(1000)] if groups else []
        self.tokenizer.train_from_iterator(
            [WORDS, "The pass key is 12345. 54 321 20 1212", *numbers], trainer
        )
        self.tokenizer.decoder = decoders.ByteLevel()

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids))


@pytest.fixture(scope="session", params=["{1,3}", ""], ids=["digits by threes", "digit by digit"])
def digit_tokenizer(request: pytest.FixtureRequest) -> BpeTokenizer:
    return BpeTokenizer(splitting(request.param), groups=True)


@pytest.fixture(scope="session", params=["byte", "byte-level BPE", "metaspace BPE", "Llama 3", "Qwen 2"])
def tokenizer(request: pytest.FixtureRequest) -> ByteTokenizer | BpeTokenizer:
    if request.param == "byte":
        return ByteTokenizer()
    if request.param == "byte-level BPE":
        return BpeTokenizer(pre_tokenizers.ByteLevel(add_prefix_space=False))
    if request.param in ("Llama 3", "Qwen 2"):
        return BpeTokenizer(splitting("{1,3}" if request.param == "Llama 3" else ""), groups=True)
    return BpeTokenizer(pre_tokenizers.Metaspace())


@pytest.fixture(scope="session")
def byte_tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture(scope="session")
def llama() -> LlamaForCausalLM:
    """A random Llama with large weights, so that its predictions depend on tokens and positions."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=288,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def llama_folder(llama: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    llama.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def scorer(llama_folder: Path) -> HuggingFaceScorer:
    return HuggingFaceScorer(llama_folder, device="cpu", chunk_tokens=7)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures as they were saved; saving itself goes on."""
    saved: list[Any] = []

    def spy(figure: Any, path: Path) -> Path:
        saved.append(figure)
        return style.save(figure, path)

    for module in (plots, heat_maps, bar_plots):
        monkeypatch.setattr(module, "save", spy)
    return saved
