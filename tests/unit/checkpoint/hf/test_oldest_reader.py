"""Exports load in the oldest transformers that setup.py allows, and compute there what they compute here.

Two versions cannot be installed beside each other: NEMO_PI_OLDEST_TRANSFORMERS names a folder that
`pip install --no-deps --target FOLDER transformers==5.0.0 'huggingface_hub<2' tokenizers==0.22.2` has filled.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nemo_pi.checkpoint.hf.load import load_huggingface
from nemo_pi.checkpoint.hf.save import export_huggingface
from nemo_pi.checkpoint.summary import read_source_config, read_summary
from nemo_pi.model.build import BuildOptions, build_model_chunks
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.rope.spec import ContextExtension
from tests.unit.checkpoint.hf.test_save import METHODS

ROOT = Path(__file__).resolve().parents[4]
OLDEST = os.environ.get("NEMO_PI_OLDEST_TRANSFORMERS", "")
READER = """
import sys, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
tokens = torch.load(sys.argv[1] + "/tokens.pt")
found = {"version": transformers.__version__}
for name in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(f"{sys.argv[1]}/{name}", attn_implementation="eager").eval()
    with torch.no_grad():
        found[name] = model(tokens).logits
    found[name + " window"] = model.config.max_position_embeddings
torch.save(found, sys.argv[1] + "/found.pt")
"""

pytestmark = [
    pytest.mark.usefixtures("single_rank"),
    pytest.mark.skipif(not OLDEST, reason="NEMO_PI_OLDEST_TRANSFORMERS is not set"),
]


def test_logits_are_ours(llama: Path, tmp_path: Path) -> None:
    shape, source = read_summary(llama).shape, read_source_config(llama)
    tokens = torch.randint(0, 96, (1, 500), generator=torch.Generator().manual_seed(1))
    ours = {}
    for method, arguments in METHODS.items():
        extension = ContextExtension.build(
            original_window=64, target_window=512, method=method, head_dim=16, **arguments
        )
        chunks = build_model_chunks(shape, extension, ParallelLayout(), BuildOptions())
        load_huggingface(chunks, llama, shape, extension=extension)
        export_huggingface(chunks, shape, extension, tmp_path / method, source_config=source)
        with torch.no_grad():
            ours[method] = chunks[0].eval()(tokens, torch.arange(500)[None], None)
    torch.save(tokens, tmp_path / "tokens.pt")
    environment = {**os.environ, "PYTHONPATH": OLDEST}
    command = [sys.executable, "-c", READER, str(tmp_path), *METHODS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = torch.load(tmp_path / "found.pt")
    (least,) = re.findall(r'"transformers>=([\d.]+)', (ROOT / "setup.py").read_text())
    assert found["version"].startswith(least), f"{OLDEST} holds {found['version']}"
    for method, logits in ours.items():
        torch.testing.assert_close(logits, found[method], rtol=1e-4, atol=5e-4, msg=method)
