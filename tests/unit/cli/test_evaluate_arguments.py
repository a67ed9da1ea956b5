"""The command line of examples/evaluate.py and conf/evaluate.yaml, as far as what is asked for."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from nemo_pi.cli.evaluate_arguments import CONF, parse, parser
from nemo_pi.cli.evaluate_config import EvaluateConfig
from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.tasks.base import Task
from nemo_pi.evaluation.tasks.passkey import Passkey
from nemo_pi.evaluation.tasks.perplexity import Perplexity
from nemo_pi.evaluation.tasks.registry import PLUG_INS
from tests.plug_ins import install


def tasks(*words: str) -> list[Task[Any, Any]]:
    return parse(arguments=["model", *words]).chosen_tasks()


def test_the_yaml_says_the_defaults_and_every_key() -> None:
    assert tasks() == [Perplexity(), Passkey()]
    written = yaml.safe_load((CONF / "evaluate.yaml").read_text(encoding="utf-8"))
    assert list(written) == [item.name for item in fields(EvaluateConfig)]
    for kind in (Perplexity, Passkey):
        assert list(written["tasks"][kind.name]) == [item.name for item in fields(kind)]
    given = {key: value for key, value in written.items() if key not in ("models", "tasks")}
    assert parse(arguments=["model"]) == EvaluateConfig(["model"], tasks=written["tasks"], **given)


def test_flags_and_overrides_mean_the_same() -> None:
    flags = "--documents a.jsonl --original-window 64 --target-window 256 --stride 32 --max-tokens 99"
    more = "--passkey-trials 3 --passkey-lengths 4 --results out --tensor-model-parallel-size 2"
    words = "documents=a.jsonl original_window=64 target_window=256 tasks.perplexity.stride=32 dtype=bfloat16"
    others = "tasks.perplexity.max_tokens=99 tasks.passkey.trials=3 tasks.passkey.num_lengths=4 results=out"
    rest = ["--backend", "megatron", "--dtype", "bfloat16"]
    last = "tensor_model_parallel_size=2 backend=megatron"
    by_flags = parse(arguments=["base", *flags.split(), "extended", *more.split(), *rest])
    by_words = parse(arguments=["models=[base,extended]", *f"{words} {others} {last}".split()])
    assert by_flags == by_words
    assert by_flags.models == ["base", "extended"] and by_flags.tensor_model_parallel_size == 2
    assert by_flags.chosen_tasks() == [Perplexity(stride=32, max_tokens=99), Passkey(trials=3, num_lengths=4)]


@pytest.mark.parametrize(
    "words",
    [
        ["tasks=[perplexity]"],
        ["~tasks.passkey"],
        ["tasks.passkey=false"],
        ["--passkey-trials", "0"],
        ["tasks.passkey=false", "--passkey-lengths", "7"],
    ],
)
def test_a_task_can_be_left_out(words: list[str]) -> None:
    assert tasks("tasks.perplexity.stride=64", *words) == [Perplexity(stride=64)]


def test_a_yaml_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("models: [a b]\ntasks:\n  passkey: {trials: 2, depths: [0, 1]}\n")
    own = ["--config-path", str(tmp_path), "--config-name", "mine"]
    config = parse(arguments=[*own, "tasks.passkey.seed=7"])
    assert config.models == ["a b"]
    assert config.chosen_tasks() == [Passkey(trials=2, depths=(0.0, 1.0), seed=7)]
    (tmp_path / "list.yaml").write_text("models: [a]\ntasks: [passkey]\n")
    assert parse(arguments=[*own[:3], "list.yaml"]).chosen_tasks() == [Passkey()]
    with pytest.raises(ConfigError, match=r"^--config-name: .*given 'mien'"):
        parse(arguments=[*own[:3], "mien"])


def test_a_folder_with_an_equals_sign_is_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "lr=3"
    folder.mkdir()
    assert parse(arguments=[str(folder), "--results", "a=b,c d"]).models == [str(folder)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["docments=x"], r"^docments: .*did you mean documents\?"),
        (["tasks.perplexty.stride=2"], r"^tasks\.perplexty: .*did you mean 'perplexity'\?"),
        (["tasks=[pass_key]"], r"^tasks\.pass_key: .*did you mean 'passkey'\?"),
        (["tasks.passkey.trails=2"], r"^tasks\.passkey\.trails: .*did you mean tasks\.passkey\.trials\?"),
        (["tasks.passkey.num_lengths=0"], r"^tasks\.passkey\.num_lengths: required ≥ 1"),
        (["tasks.passkey.trials=many"], r"^tasks\.passkey\.trials: required a whole number"),
        (["tasks.passkey.depths=0.5"], r"^tasks\.passkey\.depths: required a list"),
        (["max_tokens=1024"], r"^max_tokens: .*did you mean tasks\.perplexity\.max_tokens or tasks\.short"),
        (
            ["depths=[0.5]", "sede=1"],
            r"^depths, sede: .*did you mean tasks\.passkey\.depths or tasks\.needle\.depths\?; sede: ",
        ),
        (["lengths=[512]"], r"did you mean tasks\.perplexity\.lengths or tasks\.passkey\.lengths"),
        (["tasks.passkey.trials=0"], r"^tasks\.passkey\.trials: required ≥ 1; given 0"),
        (["tasks.passkey.depths=[]"], r"^tasks\.passkey\.depths: required at least one"),
        (["tasks.passkey.lengths=[]"], r"^tasks\.passkey\.lengths: required at least one"),
        (["tasks=[]"], "^tasks: required at least one task"),
        (["tasks={}", "tasks.perplexity=false", "tasks.passkey=false"], "^tasks: required at least one task"),
        (["--backend", "best"], "^backend: required one of auto"),
        (["dtype=float16"], "^dtype: required one of float32"),
        (["results=[a"], "^results"),
    ],
)
def test_mistakes_are_named(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(arguments=["model", *words])


def test_all_unknown_keys_are_named_at_once() -> None:
    words = ["docments=x", "tasks.passkey.trails=2", "tasks.perplexty.stride=4", "tasks.perplexity.strid=9"]
    with pytest.raises(ConfigError) as caught:
        parse(arguments=["model", *words])
    for wanted in (
        "docments: did you mean documents?",
        "tasks.passkey.trails: did you mean tasks.passkey.trials?",
        "tasks.perplexty: did you mean tasks.perplexity?",
        "tasks.perplexity.strid: did you mean tasks.perplexity.stride?",
    ):
        assert wanted in caught.value.fix


def test_no_model_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"^models: required at least one checkpoint"):
        parse(arguments=[])


def test_help_names_every_task_and_argument() -> None:
    text = parser().format_help()
    for wanted in (
        "tasks.perplexity.scored=whole_document\n",
        "tasks.passkey.depths=[0.0, 0.25, 0.5, 0.75, 1.0]\n",
        "tasks.passkey.generate=false",
        "tasks.perplexity.stride=256",
        "tasks.passkey.lengths=null",
        "conf/evaluate.yaml",
        "--stride",
    ):
        assert wanted in text


def test_a_broken_package_stops_who_asks_for_its_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = {"deep": "Deep", "passkey": "Deep"}
    install(tmp_path, monkeypatch, "acme", "raise RuntimeError('no GPU')", PLUG_INS, entries)
    assert tasks("tasks=[perplexity]") == tasks("tasks=perplexity") == [Perplexity()]
    with pytest.raises(ConfigError, match=r"task deep: .*by acme 1\.2\); given RuntimeError: no GPU"):
        tasks("tasks=[deep]")
    with pytest.raises(ConfigError, match=r"tasks\.passkey: .*acme 1\.2, which nemo_pi has already"):
        tasks("tasks=[passkey]")
    text = parser().format_help()
    assert "tasks.passkey.trials=10" in text and "tasks.deep   cannot be used: task deep: required" in text
