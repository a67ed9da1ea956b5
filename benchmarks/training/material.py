"""What all contestants read: one folder of random weights, and tokens.

python -m benchmarks.training.material 4x256 /tmp/folder 1024 4096

A process of its own makes the weights, so that no contestant and no GPU holds a second copy of them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.training.race import missing_package
from benchmarks.training.sizes import SIZES, Size
from nemo_pi.families.registry import family_of

ROOT = Path(__file__).resolve().parents[2]
_SEED = 1234
# Samples of a corpus; the end of an epoch costs a permutation of so many.
_SAMPLES = 64


def make_material(size: str, folder: Path, lengths: Sequence[int]) -> None:
    """Fills `folder` with weights, and with tokens for samples of each length."""
    command = [sys.executable, "-m", "benchmarks.training.material", size, str(folder), *map(str, lengths)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"material for {size} could not be made:\n{done.stdout[-3000:]}")


def sample(folder: str | Path, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The one sample's tokens [length] and labels [length].

    The last label is the first token again, because the corpus repeats the sample without end.
    """
    tokens = np.load(Path(folder) / "tokens.npy")[:length]
    return tokens, np.roll(tokens, -1)


def _write_weights(size: Size, folder: Path) -> None:
    """Random weights as a Hugging Face folder, in bf16 where the model is large; all contestants read it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = size.shape
    config = LlamaConfig(
        num_hidden_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.ffn_hidden_size,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_query_groups,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab_size,
        rms_norm_eps=shape.norm_epsilon,
        max_position_embeddings=size.window,
        tie_word_embeddings=shape.tied_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    torch.manual_seed(_SEED)
    large = family_of(shape).num_parameters(shape) > 10**9
    with torch.device("cuda" if large and torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config)
    model.to(torch.bfloat16 if large else torch.float32).save_pretrained(folder)


def _write_corpus(folder: Path, length: int, vocab_size: int) -> None:
    """Indexed data that repeats the sample: whatever the order of samples, each is the same."""
    from nemo_pi.data.writer import PairWriter

    tokens, _ = sample(folder, length)
    writer = PairWriter(str(folder / f"corpus_{length}"), vocab_size)
    writer.add_document(np.append(np.tile(tokens, _SAMPLES), tokens[0]).astype(np.int32))
    writer.finish("tokens")
    writer.commit()


def main(name: str, folder: Path, lengths: Sequence[int]) -> None:
    """Writes weights and tokens."""
    size = SIZES[name]
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(size, folder)
    vocab = size.shape.vocab_size
    np.save(folder / "tokens.npy", np.random.default_rng(_SEED).integers(0, vocab, max(lengths)))
    if missing_package("engine") is None:  # the others read tokens.npy
        for length in sorted(set(lengths)):
            _write_corpus(folder, length, vocab)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [int(length) for length in sys.argv[3:]])
