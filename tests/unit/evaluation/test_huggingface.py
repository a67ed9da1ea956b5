from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PreTrainedModel,
)

from nemo_pi.errors import CheckpointError, ConfigError, DataError
from nemo_pi.evaluation.huggingface import HuggingFaceScorer

B, S, V = 3, 24, 288


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(V, (B, S + 1))
    return ids[:, :-1], ids[:, 1:], torch.arange(S).expand(B, S)


def assert_scores_equal_logits(
    scorer: HuggingFaceScorer, logits: torch.Tensor, position_ids: torch.Tensor
) -> None:
    tokens, labels, _ = batch()
    labels = torch.where(torch.arange(S) % 2 == 0, logits.argmax(-1), labels)  # so that both flags occur
    scores = scorer.score(tokens, labels, position_ids)
    expected = logits.double().log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1)
    assert scores.logprob_BS.dtype == torch.float32
    torch.testing.assert_close(scores.logprob_BS.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(scores.is_greedy_BS, logits.argmax(-1) == labels)
    assert scores.is_greedy_BS[:, ::2].all() and not scores.is_greedy_BS.all()


@pytest.mark.parametrize("chunk_tokens", [1, 5, 10_000])
def test_scores_equal_the_models_own_logits(
    llama: LlamaForCausalLM, llama_folder: Path, chunk_tokens: int
) -> None:
    scorer = HuggingFaceScorer(llama_folder, device="cpu", chunk_tokens=chunk_tokens)
    tokens, _, positions = batch()
    with torch.no_grad():
        logits = llama(tokens, position_ids=positions).logits
    assert_scores_equal_logits(scorer, logits, positions)
    assert scorer.name == "tiny-llama"


def test_a_gap_in_the_positions_is_no_document_boundary(
    llama: LlamaForCausalLM, scorer: HuggingFaceScorer
) -> None:
    tokens, _, positions = batch()
    positions = positions + 17 * (torch.arange(S) >= S // 2)
    causal = torch.full((S, S), torch.finfo(torch.float32).min).triu(1).expand(B, 1, S, S)
    with torch.no_grad():
        logits = llama(tokens, position_ids=positions, attention_mask=causal).logits
        without_gap = llama(tokens, position_ids=batch()[2]).logits
    assert not torch.allclose(logits, without_gap, atol=1e-2)
    assert_scores_equal_logits(scorer, logits, positions)


def tiny(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if family == "gemma2":  # caps its logits after the head
        config = Gemma2Config(
            vocab_size=V,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            final_logit_softcapping=1.0,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        return Gemma2ForCausalLM(config).eval()
    if family == "gpt2":
        config = GPT2Config(vocab_size=V, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
        config.bos_token_id = config.eos_token_id = None
        return GPT2LMHeadModel(config).eval()
    return BloomForCausalLM(BloomConfig(vocab_size=V, hidden_size=32, n_layer=1, n_head=4))


@pytest.mark.parametrize(("family", "head_is_linear"), [("gemma2", False), ("gpt2", True)])
def test_other_architectures_score_as_their_own_logits(
    family: str, head_is_linear: bool, tmp_path: Path
) -> None:
    model = tiny(family)
    model.save_pretrained(tmp_path)
    scorer = HuggingFaceScorer(tmp_path, device="cpu", chunk_tokens=10)
    tokens, _, positions = batch()
    with torch.no_grad():
        logits = model(tokens, position_ids=positions).logits
    assert scorer._head_is_linear is head_is_linear
    assert_scores_equal_logits(scorer, logits, positions)


def test_a_model_without_position_ids_is_refused(tmp_path: Path) -> None:
    tiny("bloom").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="position_ids"):
        HuggingFaceScorer(tmp_path, device="cpu")


def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_a_missing_or_misshapen_weight_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    folder = copy(llama_folder, tmp_path)
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({k: v for k, v in weights.items() if k != name}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=name):
        HuggingFaceScorer(folder, device="cpu")
    save_file({**weights, name: weights[name][:-1].clone()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError):
        HuggingFaceScorer(folder, device="cpu")


def test_pickled_weights_and_other_folders_are_refused(
    llama: LlamaForCausalLM, llama_folder: Path, tmp_path: Path
) -> None:
    folder = copy(llama_folder, tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save(llama.state_dict(), folder / "pytorch_model.bin")
    for wrong in (folder, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match="safetensors"):
            HuggingFaceScorer(wrong, device="cpu")


def test_pickled_weights_beside_other_safetensors_are_refused(
    llama: LlamaForCausalLM, llama_folder: Path, tmp_path: Path
) -> None:
    folder = copy(llama_folder, tmp_path)
    (folder / "model.safetensors").rename(folder / "something_else.safetensors")
    torch.save(llama.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="safetensors"):
        HuggingFaceScorer(folder, device="cpu")


def test_code_in_the_folder_is_not_run(llama_folder: Path, tmp_path: Path) -> None:
    folder, mark = copy(llama_folder, tmp_path), tmp_path / "ran"
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "foreign",
        "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    with pytest.raises(CheckpointError, match="without running code"):
        HuggingFaceScorer(folder, device="cpu")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("entry", "value"), [("tie_word_embeddings", "false"), ("num_hidden_layers", 10**400)]
)
def test_a_config_that_transformers_refuses_is_an_error_of_ours(
    llama_folder: Path, tmp_path: Path, entry: str, value: object
) -> None:
    folder = copy(llama_folder, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, entry: value}))
    with pytest.raises(CheckpointError, match=entry):
        HuggingFaceScorer(folder)


@pytest.mark.parametrize("wrong", [-1, -100, V])
def test_ids_outside_the_vocabulary_are_refused(scorer: HuggingFaceScorer, wrong: int) -> None:
    tokens, labels, positions = (tensor.clone() for tensor in batch())
    labels[1, 3] = wrong
    with pytest.raises(DataError, match="labels"):
        scorer.score(tokens, labels, positions)
    with pytest.raises(DataError, match="tokens"):
        scorer.score(labels, tokens, positions)


def test_chunks_hold_at_least_one_token(llama_folder: Path) -> None:
    with pytest.raises(ConfigError, match="chunk_tokens"):
        HuggingFaceScorer(llama_folder, chunk_tokens=0)
