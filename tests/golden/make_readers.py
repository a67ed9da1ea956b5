"""Writes readers.json: what transformers from 4.45 to 5 computes from the config.json of our exports.

    python -m tests.golden.make_readers FOLDER

FOLDER holds one folder for each version, named after it: transformers and whatever tokenizers and
huggingface_hub it asks for, installed with `pip install --no-deps --target`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.hf.config_write import build_config
from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.spec import ContextExtension

PATH = Path(__file__).with_name("readers.json")
SHAPE = ModelShape(2, 32, 64, 2, 2, 16, 96)
LENGTHS = (40, 64, 65, 200)
"""Tokens read: within the original window, at its end, beyond it."""
_LISTS = {"short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [2.0 + i for i in range(8)]}
# name: (method, its arguments); 64 to 256 tokens, so that every kind of frequency is met.
EXPORTS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("none", {}),
    "linear": ("linear", {}),
    "ntk": ("ntk", {}),
    "dynamic": ("dynamic", {}),
    "yarn": ("yarn", {}),
    "yarn with betas": ("yarn", {"beta_fast": 16.0, "beta_slow": 2.0}),
    "yarn with DeepSeek's pair": ("yarn", {"mscale": 1.0, "mscale_all_dim": 0.5}),
    "yarn with a factor of its own": ("yarn", {"attention_factor": 1.3}),
    "yarn without truncation": ("yarn", {"truncate": False}),
    "llama3": ("llama3", {"low_freq_factor": 2.0, "high_freq_factor": 8.0}),
    "longrope": ("longrope", _LISTS),
    "longrope with a factor of its own": ("longrope", {**_LISTS, "attention_factor": 1.3}),
    "abf": ("abf", {"base": 8e6}),
    "proportional": ("proportional", {"partial_rotary_factor": 0.5}),
}

# Run by each version for itself: cosine and sine of the last position of each length.
_PROGRAM = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
found = {}
for name, config in json.load(open(sys.argv[1])).items():
    try:
        found[name] = {}
        for length in json.loads(sys.argv[2]):
            rotary = LlamaRotaryEmbedding(config=LlamaConfig.from_dict(json.loads(json.dumps(config))))
            cos, sin = rotary(torch.zeros(1, 1, 1), torch.arange(length)[None])
            half = cos.shape[-1] // 2
            pair = (part[0, -1, :half].tolist() for part in (cos, sin))
            found[name][length] = [[round(number, 6) for number in part] for part in pair]
    except Exception as error:
        found[name] = {"refused": type(error).__name__}
print(json.dumps(found))
"""


def extension_of(name: str) -> ContextExtension:
    """The extension of an entry of EXPORTS."""
    method, extra = EXPORTS[name]
    return ContextExtension.build(
        original_window=64, target_window=256, method=method, head_dim=16, base=500.0, extra_args=extra
    )


def configs() -> dict[str, dict[str, Any]]:
    """What an export writes of each."""
    return {name: build_config(SHAPE, extension_of(name), None, "float32") for name in EXPORTS}


def read_by(folder: Path, written: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the transformers in a folder makes of them."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(written, file)
        file.flush()
        command = [sys.executable, "-c", _PROGRAM, file.name, json.dumps(LENGTHS)]
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    written = configs()
    versions = sorted(Path(sys.argv[1]).iterdir(), key=lambda path: [*map(int, path.name.split("."))])
    read = {version.name: read_by(version, written) for version in versions}
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(numbers)}" for name, numbers in read.items())
    source = "LlamaRotaryEmbedding of each version of transformers, on a CPU"
    PATH.write_text(
        f'{{"source": {json.dumps(source)},\n"configs": {json.dumps(written)},\n"read": {{\n{lines}\n}}}}\n'
    )
