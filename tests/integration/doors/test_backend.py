"""The recipe "Add a backend" of CONTRIBUTING.md, followed in a package of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
RECIPE = (
    (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("### Add a backend")[1].split("\n## ")[0]
)
KERNEL, ENTRY = re.findall(r"```python\n(.*?)```", RECIPE, flags=re.DOTALL)
GROUP, POINT = re.findall(r'entry-points\."(.*?)"\]\n +(.*)\n', RECIPE)[0]
OBSTACLE = "obstacle=lambda: os.environ.get('NO_EXACT')"

RUN = """
import torch
from hydra import compose, initialize_config_dir
from nemo_pi.config.load import resolve
from nemo_pi.config.plan import render_plan
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.errors import NemoPiError
from nemo_pi.parallel import groups

sizes = "num_layers=2 hidden_size=64 ffn_hidden_size=96 num_attention_heads=4 vocab_size=128"
given = ["model=base", "dry_run=true", *(f"model.{key}" for key in sizes.split())]
tokens = torch.arange(128).view(2, 64) * 7 % 128
batch = {"tokens": tokens, "labels": tokens.roll(-1, 1), "loss_mask": torch.ones(2, 64),
         "position_ids": torch.arange(64).expand(2, 64)}
for name in ("sdpa", "exact"):
    with initialize_config_dir("CONF", version_base=None):
        cfg = compose("extend_context", [*given, "model.max_position_embeddings=64",
                                         f"model.attention_backend={name}"])
    run = resolve(cfg, world_size=1, summary=None)
    try:
        print(next(line for line in render_plan(run).splitlines() if line.startswith("  attention")))
    except NemoPiError as error:
        print(error)
        continue
    groups.ensure_process_group()
    groups.initialize(run.parallel, 1)
    engine = MegatronEngine(run.engine)
    core = engine.chunks[0].decoder.layers[0].self_attention.core_attention
    print("built of", type(core.backend).__name__, "loss", f"{engine.evaluate(batch):.5f}")
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files, and what an installed package says of itself."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "exact_attention.py").write_text(KERNEL, encoding="utf-8")
    entry = ENTRY.strip().removesuffix(")") + f", {OBSTACLE})"
    (folder / "exact_backend.py").write_text(f"import os\n{entry}\n", encoding="utf-8")
    info = folder / "exact-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: exact\nVersion: 1.0\n", encoding="utf-8")
    points = f"[{GROUP}]\n{POINT.replace(chr(34), '')}\n"
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    return folder


def output(package: Path, **environment: str) -> list[str]:
    """What RUN prints where the package is installed."""
    path = os.pathsep.join([str(package), str(ROOT)])
    finished = subprocess.run(
        [sys.executable, "-c", RUN.replace("CONF", str(ROOT / "conf"))],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


def test_chosen_by_its_key_built_and_used(package: Path) -> None:
    sdpa_plan, sdpa_built, plan, built = output(package)
    assert (sdpa_plan.split()[-1], plan.split()[-1]) == ("sdpa", "exact")
    assert sdpa_built.startswith("built of Sdpa") and built.startswith("built of Exact")
    losses = [float(line.split()[-1]) for line in (sdpa_built, built)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_refused_where_it_cannot_run(package: Path) -> None:
    *_, error = output(package, NO_EXACT="its library is missing")
    assert "model.attention_backend" in error and "its library is missing" in error
    assert "sdpa" in error  # what can
