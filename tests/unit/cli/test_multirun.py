"""Runs of one command: names, folders, failures and the table."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from nemo_pi.cli.ends import USER_ERROR
from nemo_pi.cli.multirun import job_name, own_folders
from nemo_pi.cli.runner import hydra_runner
from nemo_pi.config.overrides import swept_keys
from nemo_pi.errors import ConfigError

CONF = Path(__file__).parents[3] / "conf"


@dataclass(frozen=True)
class Result:
    """As RunResult."""

    metrics: dict[str, float]
    status: int = 0
    global_step: int = 7
    folders: Any = field(default_factory=lambda: SimpleNamespace(logs=Path("results/x")))


def ran(
    monkeypatch: pytest.MonkeyPatch, *words: str, status: int = 0, fails: tuple[int, ...] = ()
) -> tuple[list[DictConfig], int | str | None]:
    """The configurations that a command line runs on, and its exit status."""
    seen: list[DictConfig] = []

    @hydra_runner(config_path=str(CONF), config_name="extend_context")
    def main(cfg: DictConfig) -> Any:
        seen.append(cfg)
        if cfg.model.seed in fails:
            raise ConfigError("model.seed", required="another", given=cfg.model.seed, fix="change it")
        return Result({"reduced_train_loss": cfg.model.seed / 4, "grad_norm": 1.0}, status)

    monkeypatch.setattr(sys, "argv", ["main.py", "model=demo", *words])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # and back to what it was
    try:
        main()
    except SystemExit as ended:
        return seen, ended.code
    return seen, 0


def test_paths_mean_the_folder_of_the_command_and_nothing_is_left_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    places: list[Path] = []
    monkeypatch.setattr("nemo_pi.cli.multirun.own_folders", lambda cfg, *_: places.append(Path.cwd()) or cfg)
    assert ran(monkeypatch, "-m", "model.seed=1,2")[1] == 0
    assert places == [tmp_path, tmp_path] and list(tmp_path.iterdir()) == []


def test_every_run_has_its_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--multirun", "model.seed=1,2", "model.optim.lr=1e-4", "model.export.hf_path=out")
    seen, _ = ran(monkeypatch, *words)
    assert [cfg.exp_manager.version for cfg in seen] == ["seed=1", "seed=2"]
    assert [cfg.model.export.hf_path for cfg in seen] == ["out/seed=1", "out/seed=2"]


def test_one_that_fails_leaves_the_others_and_the_table_compares_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    seen, status = ran(monkeypatch, "-m", "model.seed=1,2,3", fails=(2,))
    assert [cfg.model.seed for cfg in seen] == [1, 2, 3] and status == USER_ERROR
    out, err = capsys.readouterr()
    assert "ConfigError: model.seed: required another" in err
    rows = [line.split() for line in out.splitlines() if line.startswith("seed=")]
    assert rows == [
        ["seed=1", "7", "0.2500", "0.0", "results/x"],
        ["seed=2", "–", "–", "0.0", "failed:", "model.seed"],
        ["seed=3", "7", "0.7500", "0.0", "results/x"],
    ]


def test_a_single_run_ends_with_its_status(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert ran(monkeypatch, "model.seed=1")[1] == 0
    assert ran(monkeypatch, "model.seed=1", status=75)[1] == 75
    assert ran(monkeypatch, "-m", "model.seed=1,2", status=75)[1] == 75


def test_ranks_of_each_run_s_own_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    seen, status = ran(monkeypatch, "-m", "model.seed=1,2", "trainer.devices=2")
    assert (seen, status) == ([], USER_ERROR)
    assert "torchrun --nproc-per-node 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"model.seed": "1"}, "seed=1"),
        ({"model.seed": "1", "model.optim.lr": "2e-4"}, "seed=1,lr=2e-4"),
        ({"model.seed": "1", "model.data.seed": "2"}, "model.seed=1,model.data.seed=2"),
        ({"model.data.data_prefix": "[/a/b,../c]"}, "data_prefix=_a_b_.._c_"),
        ({"rope": "yarn"}, "rope=yarn"),
        ({}, "run"),
    ],
)
def test_names_are_folders(values: dict[str, str], name: str) -> None:
    assert job_name(values) == name


def test_folders_that_differ_already_are_left_alone() -> None:
    cfg = OmegaConf.create({"exp_manager": {"explicit_log_dir": "logs", "exp_dir": "e"}})
    assert own_folders(cfg, "a=1", ("a",)).exp_manager.explicit_log_dir == "logs/a=1"
    assert own_folders(cfg, "a=1", ("name",)) == cfg
    assert cfg.exp_manager.explicit_log_dir == "logs"
    old = OmegaConf.create({"exp_manager": {"version": "v2"}})
    assert own_folders(old, "a=1", ("a",)).exp_manager.version == "v2/a=1"


def test_keys_of_several_values_are_found() -> None:
    assert swept_keys(["a=1,2", "b=[1,2]", "c=range(1,3)", "++d.e=x,y"]) == ("a", "c", "d.e")


def test_what_stages_export_is_apart_too() -> None:
    stages = [{"max_steps": 1, "export.hf_path": "a"}, {"max_steps": 1, "export": {"peft_path": "b"}}]
    apart = own_folders(OmegaConf.create({"stages": stages, "exp_manager": {}}), "seed=1", ("model.seed",))
    assert apart.stages == [
        {"max_steps": 1, "export.hf_path": "a/seed=1"},
        {"max_steps": 1, "export": {"peft_path": "b/seed=1"}},
    ]
