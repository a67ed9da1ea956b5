"""The entry point around Hydra: flags and overrides, errors, and what it leaves unimported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from nemo_pi.cli.ends import USER_ERROR
from nemo_pi.cli.runner import hydra_runner, overrides_and_flags
from nemo_pi.data.indexed import write_index

ROOT = Path(__file__).parents[3]
CONF = ROOT / "conf"


def ran(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[dict[str, Any]]:
    """The configurations that a command line runs on."""
    seen: list[dict[str, Any]] = []

    @hydra_runner(config_path=str(CONF), config_name="extend_context")
    def main(cfg: DictConfig) -> None:
        values = OmegaConf.to_container(cfg, resolve=True)
        assert isinstance(values, dict)
        seen.append(dict(values))

    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # and back to what it was
    main()
    return seen


@pytest.mark.parametrize(
    ("arguments", "overrides", "flags"),
    [
        (["a=1", "--cfg", "job"], ["a=1"], ["--cfg", "job"]),
        (["--cfg", "job", "a=1", "-m", "~b"], ["a=1", "~b"], ["--cfg", "job", "-m"]),
        (["--config-dir", "runs=5", "a=1"], ["a=1"], ["--config-dir", "runs=5"]),
        (["--config-name=x", "a=1"], ["a=1"], ["--config-name=x"]),
        (["--info", "all", "a=1"], ["a=1"], ["--info", "all"]),
        (["--info", "a=1"], ["a=1"], ["--info"]),
    ],
)
def test_flags_and_overrides_are_told_apart(
    arguments: list[str], overrides: list[str], flags: list[str]
) -> None:
    assert overrides_and_flags(arguments) == (overrides, flags)


def test_a_run_leaves_nothing_of_hydras(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (cfg,) = ran(monkeypatch, "model=demo", "+model.seed=7", "name='${multiply:2,3}'")
    assert (cfg["model"]["seed"], cfg["name"]) == (7, 6)
    assert list(tmp_path.iterdir()) == [] and Path.cwd() == tmp_path


def test_flags_of_hydra_work(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(monkeypatch, "--cfg", "job", "model=llama-7b", "--package", "model") == []
    shown = OmegaConf.create(capsys.readouterr().out)
    assert OmegaConf.select(shown, "model.num_layers", default=shown.get("num_layers")) == 32
    (cfg,) = ran(monkeypatch, "--config-name", "pretrain", "dry_run=true")
    assert cfg["dry_run"] is True


def test_a_multirun_makes_a_run_of_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    seen = ran(monkeypatch, "model.seed=1,2", "-m", "model=demo", "hydra.sweep.dir=sweep")
    assert [cfg["model"]["seed"] for cfg in seen] == [1, 2]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("dry_rn=true", "ConfigError: dry_rn: "),
        ("encoder_seq_length=64", "did you mean model.encoder_seq_length?"),
        ("allow_rescaling=true", "did you mean model.allow_rescaling?"),
        ("model=dem", "did you mean demo?"),
        ("model.seed=[1,", "ConfigError: model.seed=[1,: "),
        ("seed", "ConfigError: seed: "),
    ],
)
def test_hydra_s_errors_end_like_ours(
    argument: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        ran(monkeypatch, argument)
    assert ended.value.code == USER_ERROR
    assert words in capsys.readouterr().err


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["main.py", "model=demo"])

    @hydra_runner(config_path=str(CONF), config_name="extend_context")
    def main(cfg: DictConfig) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main()


def test_help_says_how_to_begin() -> None:
    out, found = imported("extend_context", "--help")
    assert found == "[]"
    assert out.startswith("Extend the context window of a GPT")
    for wanted in (
        "python examples/extend_context.py model=demo\n",
        "dry_run=true",
        "rope: abf, dynamic, linear",
        "the model's in conf/model/base.yaml",
    ):
        assert wanted in out
    assert len(out.splitlines()) < 30


HEAVY = ("nemo", "lightning", "megatron", "transformers")

# Executes a script as __main__ and says last which of HEAVY it imported.
LOOK = """
import runpy, sys
script, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as ended:
    print("status", ended.code, file=sys.stderr)
print([name for name in {names} if name in sys.modules], file=sys.stderr)
"""


def imported(script: str, *arguments: str, names: tuple[str, ...] = HEAVY) -> tuple[str, str]:
    """Standard output of a script, and the last line of its standard error: what it imported of `names`."""
    command = [sys.executable, "-c", LOOK.format(names=names), f"examples/{script}.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr.splitlines()[-1]


def test_a_dry_run_imports_no_framework_and_prints_the_plan(tmp_path: Path) -> None:
    """With data and an export to look at, which it checks as the run would."""
    write_index(tmp_path / "text.idx", np.uint16, [5000] * 40)
    (tmp_path / "text.bin").write_bytes(np.zeros(40 * 5000, np.uint16).tobytes())
    out, found = imported(
        "extend_context",
        "model=demo",
        "restore_from_path=demo/model",
        "dry_run=true",
        "trainer.accelerator=cpu",
        f"model.data.data_prefix=[{tmp_path / 'text'}]",
        f"model.export.hf_path={tmp_path / 'export'}",
        f"exp_manager.exp_dir={tmp_path / 'results'}",
    )
    assert found == "[]"
    assert "Plan of extend_demo" in out and "target            4,096 tokens" in out


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("extend_context", ["--help"]),
        ("extend_context", ["model=dem"]),
        ("extend_context", ["model=demo", "trainer.max_step=1", "restore_from_path=demo/model"]),
        ("convert_checkpoint", ["--help"]),
        ("preprocess_data", ["--help"]),
        ("pose_coverage", ["--help"]),
        ("slurm/render", ["--help"]),
        ("evaluate", ["--help"]),
        ("generate", ["--help"]),
        ("evaluate", ["demo/model", "tasks.perplexity.strid=3"]),
        ("generate", ["--model", "nowhere", "--prompt", "x", "--max-new-tokens", "1"]),
    ],
)
def test_help_and_mistakes_come_at_once(script: str, arguments: list[str]) -> None:
    assert imported(script, *arguments)[1] == "[]"


def test_preprocessing_needs_neither_torch_nor_megatron(tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text('{"text": "abc"}\n')
    out, found = imported(
        "preprocess_data",
        f"--input={tmp_path / 'text.jsonl'}",
        "--tokenizer-library=byte",
        f"--output-prefix={tmp_path / 'out'}",
        names=("torch", *HEAVY),
    )
    assert "1 document, 3 tokens" in out
    assert found == "[]"
