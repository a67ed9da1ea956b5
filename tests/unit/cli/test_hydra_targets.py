"""What a configuration may tell Hydra itself: Hydra's own choices, and nothing that names code."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException

from nemo_pi.cli.hydra_targets import SWITCH, check_command_line, names_no_code
from nemo_pi.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
NEMOS = ("hydra.output_subdir=null", "hydra/job_logging=stdout", "hydra.run.dir=.")
"""What hydra_runner adds to every command line, as NeMo's does."""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program with a configuration `main` and an empty group; a module beside it that leaves a trace."""
    (tmp_path / "conf" / "group").mkdir(parents=True)
    (tmp_path / "conf" / "main.yaml").write_text("defaults:\n  - _self_\n  - group: null\nx: 1\n")
    (tmp_path / "main.py").write_text("")
    (tmp_path / "traced").mkdir()
    (tmp_path / "traced" / "__init__.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def check(program: Path, *arguments: str) -> None:
    check_command_line(str(program / "main.py"), "conf", "main", arguments)
    assert not GlobalHydra.instance().is_initialized()


SOUND = [
    (),
    NEMOS,
    ("x=2", "--cfg", "job"),
    ("hydra/job_logging=disabled", "hydra/hydra_logging=none"),
    ("hydra.job_logging.root.level=DEBUG", "hydra.verbose=true"),
    ("hydra.job.env_copy=[PATH]",),
    ("hydra.sweep.dir=elsewhere", "hydra.sweeper.max_batch_size=2"),
    ("-m", "x=1,2,3", "hydra/job_logging=stdout"),
]


@pytest.mark.parametrize("arguments", SOUND, ids=str)
def test_hydra_s_own_choices_pass(program: Path, arguments: tuple[str, ...]) -> None:
    check(program, *arguments)


CODE = [
    ("callbacks", "{a: {_target_: traced.X}}"),
    ("callbacks", """'${oc.decode:"{a: {_target_: traced.X}}"}'"""),
    ("launcher", "{_target_: traced.X}"),
    ("sweeper", "{_target_: traced.X}"),
    ("job_logging", "{handlers: {console: {class: traced.X}}}"),
    ("job_logging", "{handlers: {console: {(): traced.X}}}"),
    ("job_logging", "{handlers: {console: {stream: ext://traced.X}}}"),
    ("job_logging", "{formatters: {simple: {class: traced.X}}}"),
    ("hydra_logging", "{filters: {a: {(): traced.X}}}"),
    ("hydra_logging", "{loggers: {a: {handlers: [cfg://x]}}}"),
    ("searchpath", "['pkg://traced']"),
    ("searchpath", "['structured://traced']"),
    ("searchpath", "['${oc.decode:pkg://traced}']"),
    ("job", "{env_set: {LD_PRELOAD: traced.so}}"),
]


PLACED = [(*case, "first") for case in CODE] + [(*CODE[index], "group") for index in (0, 2, 4, 8)]


@pytest.mark.parametrize(("key", "value", "place"), PLACED, ids=str)
def test_code_in_a_file_is_refused_by_its_key(program: Path, key: str, value: str, place: str) -> None:
    """In the first YAML, and in one of a group that claims the place of the whole."""
    text = f"hydra:\n  {key}: {value}\n"
    if place == "first":
        file = program / "conf" / "main.yaml"
        file.write_text(file.read_text() + text)
        arguments: tuple[str, ...] = NEMOS
    else:
        (program / "conf" / "group" / "evil.yaml").write_text("# @package _global_\n" + text)
        arguments = ("group=evil", *NEMOS)
    with pytest.raises(ConfigError, match=f"hydra.{key}"):
        check(program, *arguments)
    assert not (program / "ran").exists() and "traced" not in sys.modules


@pytest.mark.parametrize(
    "override",
    [
        "+hydra.callbacks.a={_target_: traced.X}",
        "++hydra.launcher._target_=traced.X",
        "++hydra.launcher.inner=[{_target_: traced.X}]",
        "++hydra.sweeper.params=${x}",
        "hydra.sweeper._target_=traced.X",
        "++hydra.job_logging.handlers.console.class=traced.X",
        "++hydra.hydra_logging.handlers.console={stream: 'ext://traced.X'}",
        "hydra.searchpath=['pkg://traced']",
        "++hydra.job.env_set.LD_PRELOAD=traced.so",
    ],
)
def test_code_in_an_override_is_refused_by_its_key(program: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=override.lstrip("+").partition(".")[0]):
        check(program, override)
    assert not (program / "ran").exists() and "traced" not in sys.modules


def test_a_foreign_group_of_hydra_s_is_refused(program: Path) -> None:
    """Chosen by a defaults list, from a folder that a search path adds."""
    folder = program / "more" / "hydra" / "launcher"
    folder.mkdir(parents=True)
    (folder / "evil.yaml").write_text("# @package hydra.launcher\n_target_: traced.X\n")
    (program / "conf" / "main.yaml").write_text(
        f"defaults:\n  - override hydra/launcher: evil\n  - _self_\n"
        f"hydra:\n  searchpath: ['file://{program / 'more'}']\n"
    )
    with pytest.raises(ConfigError, match=r"hydra\.launcher\._target_"):
        check(program)


def test_every_job_of_a_multirun_is_checked(program: Path) -> None:
    evil = "# @package _global_\nhydra:\n  job_logging: {handlers: {console: {(): traced.X}}}\n"
    (program / "conf" / "group" / "evil.yaml").write_text(evil)
    (program / "conf" / "group" / "good.yaml").write_text("y: 1\n")
    check(program, "-m", "group=good,good", "x=1,2")
    with pytest.raises(ConfigError, match=r"hydra\.job_logging"):
        check(program, "-m", "group=good,evil", "x=1,2")


def test_another_folder_of_yamls_is_looked_into(program: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "main.yaml").write_text("hydra:\n  callbacks: {a: {_target_: traced.X}}\n")
    for flag in ("--config-dir", "--config-path"):
        with pytest.raises(ConfigError, match=r"hydra\.callbacks"):
            check(program, flag, str(other))


def test_a_pickled_run_is_not_run_again(program: Path) -> None:
    (program / "run.pickle").write_bytes(pickle.dumps({}))
    with pytest.raises(ConfigError, match="--experimental-rerun"):
        check(program, "--experimental-rerun", str(program / "run.pickle"))


def test_the_switch_lets_everything_through(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")
    check(program, "+hydra.callbacks.a={_target_: traced.X}")
    monkeypatch.setenv(SWITCH, "0")
    with pytest.raises(ConfigError, match=f"set {SWITCH}=1"):
        check(program, "+hydra.callbacks.a={_target_: traced.X}")


def test_what_cannot_be_composed_is_hydra_s_to_say(program: Path) -> None:
    with pytest.raises(HydraException):
        check(program, "group=nowhere")
    assert not GlobalHydra.instance().is_initialized()


def test_nothing_runs_before_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    @names_no_code(
        config_path=os.path.relpath(ROOT / "conf", Path(__file__).parent), config_name="extend_context"
    )
    def main() -> int:
        ran.append(1)
        return 7

    monkeypatch.setattr(sys, "argv", ["main.py", "model=demo"])
    assert main() == 7
    monkeypatch.setattr(sys, "argv", ["main.py", "+hydra.callbacks.a={_target_: os.getcwd}"])
    with pytest.raises(ConfigError, match=r"hydra\.callbacks"):
        main()
    assert ran == [1]
