"""Tiny tokenizers and Hugging Face models that the tests of this package share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from nemo_pi.evaluation.huggingface import HuggingFaceScorer

WORDS = (
    "There is a green sky where we go again and the yellow sun is a key hidden in blue grass. Remember it."
)


class ByteTokenizer:
    bos_id: int | None = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


class BpeTokenizer:
    bos_id: int | None = None

    def __init__(self, pre_tokenizer: pre_tokenizers.PreTokenizer) -> None:
        self.tokenizer = Tokenizer(models.BPE())
        self.tokenizer.pre_tokenizer = pre_tokenizer
        alphabet = sorted({*pre_tokenizers.ByteLevel.alphabet(), *"0123456789\n", *WORDS})
        trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
        self.tokenizer.train_from_iterator([WORDS, "The pass key is 12345. 54 321 20 1212"], trainer)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids


@pytest.fixture(scope="session", params=["byte", "byte-level BPE", "metaspace BPE"])
def tokenizer(request: pytest.FixtureRequest) -> ByteTokenizer | BpeTokenizer:
    if request.param == "byte":
        return ByteTokenizer()
    if request.param == "byte-level BPE":
        return BpeTokenizer(pre_tokenizers.ByteLevel(add_prefix_space=False))
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
