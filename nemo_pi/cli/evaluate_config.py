"""What examples/evaluate.py is asked for: conf/evaluate.yaml, overrides in Hydra's way, and flags.

Flags are short for keys. They are set after the YAML and the overrides have been composed, so that a path in
a flag needs none of the quotes that Hydra wants around unusual characters.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from nemo_pi.cli.flags import LAYOUT_FLAGS
from nemo_pi.cli.parser import Parser
from nemo_pi.config.merge import convert, from_mapping
from nemo_pi.config.overrides import refusal
from nemo_pi.errors import ConfigError, NemoPiError
from nemo_pi.evaluation.tasks.base import Task
from nemo_pi.evaluation.tasks.registry import PLUG_INS, task_names, task_type

CONF = Path(__file__).resolve().parents[2] / "conf"
BACKENDS = ("auto", "transformers", "megatron")
DTYPES = ("float32", "bfloat16")
_OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w.]*(=.*)?", re.DOTALL)
_SELECTION = re.compile(r"\+{0,2}tasks=\s*(\[.*\])", re.DOTALL)
_PERPLEXITY, _PASSKEY = "tasks.perplexity.", "tasks.passkey."
# Flag → key it sets, type, help.
FLAGS: dict[str, tuple[str, type, str]] = {
    "documents": ("documents", str, "held-out text, JSON lines with a `text` key"),
    "original-window": ("original_window", int, "tokens the base model was trained on (default: recorded)"),
    "target-window": ("target_window", int, "tokens to evaluate up to (default: recorded)"),
    "stride": (_PERPLEXITY + "stride", int, "labels per window after the first (default 256)"),
    "max-tokens": (_PERPLEXITY + "max_tokens", int, "labels scored per length (default: all)"),
    "passkey-trials": (_PASSKEY + "trials", int, "documents per cell (default 10); 0 leaves pass keys out"),
    "passkey-lengths": (_PASSKEY + "num_lengths", int, "evenly spaced lengths (default 32)"),
    "results": ("results", str, "folder to write (default results/evaluation)"),
    "backend": ("backend", str, f"{', '.join(BACKENDS)} (default auto)"),
    "dtype": ("dtype", str, f"{' or '.join(DTYPES)} (default float32)"),
    "tokenizer": ("tokenizer", str, "folder of the tokenizer (default: the checkpoint's)"),
    **{name.replace("_", "-"): (name, int, f"{text} (default 1)") for name, text in LAYOUT_FLAGS.items()},
}


@dataclass(frozen=True)
class EvaluateConfig:
    """The keys of conf/evaluate.yaml, checked; they are explained there."""

    models: list[str]
    """Checkpoints of either kind."""
    documents: str | None = None
    """JSON lines; None: none."""
    original_window: int | None = None
    """Tokens; None: the checkpoint's."""
    target_window: int | None = None
    """Tokens; None: the checkpoint's."""
    tasks: dict[str, Any] = field(default_factory=dict)
    """Task name → its arguments, or false."""
    add_bos: bool = False
    """Whether windows and prompts begin with the beginning-of-text token."""
    batch_tokens: int = 8192
    """Tokens per batch of one replica."""
    results: str = "results/evaluation"
    """Folder to write."""
    backend: str = "auto"
    """One of BACKENDS."""
    dtype: str = "float32"
    """One of DTYPES."""
    tokenizer: str | None = None
    """Folder; None: the checkpoint's."""
    tensor_model_parallel_size: int = 1
    """Ranks that share each layer's matrices."""
    pipeline_model_parallel_size: int = 1
    """Ranks that the layers are dealt over."""
    context_parallel_size: int = 1
    """Ranks that share each sequence."""

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError(
                "models",
                required="at least one checkpoint",
                given="none",
                fix="give folders: models=[base-model,extended-model]",
            )
        for name, allowed in (("backend", BACKENDS), ("dtype", DTYPES)):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    name,
                    required=f"one of {', '.join(allowed)}",
                    given=getattr(self, name),
                    fix="name one of them",
                )
        if not self.chosen_tasks():
            raise ConfigError(
                "tasks",
                required=f"at least one task: {', '.join(task_names())}",
                given="none",
                fix="write e.g. `perplexity: {}` under tasks",
            )

    def chosen_tasks(self) -> list[Task[Any, Any]]:
        """Return the tasks with their arguments.

        Raises:
            ConfigError: an unknown task or argument, or a value that cannot be.
        """
        return [_task(name, arguments) for name, arguments in self.tasks.items() if arguments is not False]


def parse(description: str | None = None, arguments: Sequence[str] | None = None) -> EvaluateConfig:
    """The command line, over the YAML; `arguments` of the process by default.

    Raises:
        ConfigError: an unknown key or task, or a value that cannot be.
    """
    args = parser(description).parse_intermixed_args(arguments)
    overrides = [word for word in args.words if _is_override(word)]
    chosen = [found for word in overrides if (found := _SELECTION.fullmatch(word))]
    overrides = [word for word in overrides if not _SELECTION.fullmatch(word)]
    values = compose(args.config_path, args.config_name, overrides)
    models = [word for word in args.words if not _is_override(word)]
    if models:
        values["models"] = models
    for flag, (key, _, _) in FLAGS.items():
        given = getattr(args, flag.replace("-", "_"))
        if given is not None:
            _assign(values, key, given)
    if args.passkey_trials == 0:
        _assign(values, "tasks.passkey", False)
    if chosen:
        values["tasks"] = _selected(values.get("tasks"), chosen[-1][1])
    elif isinstance(values.get("tasks"), list):
        values["tasks"] = dict.fromkeys(values["tasks"])
    return from_mapping(EvaluateConfig, values)


def parser(description: str | None = None) -> argparse.ArgumentParser:
    """The command line's flags; everything else is a model or an override."""
    made = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("words", nargs="*", metavar="MODEL | key=value", help="checkpoints, and overrides")
    made.add_argument("--config-path", type=Path, default=CONF, help="folder of the YAML (default conf/)")
    made.add_argument("--config-name", default="evaluate", help="its name (default evaluate)")
    for flag, (key, kind, text) in FLAGS.items():
        made.add_argument(f"--{flag}", type=kind, help=f"{key}: {text}", metavar=kind.__name__.upper())
    return made


def compose(folder: Path, name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The YAML with overrides as plain values. Whether a key exists is for the dataclasses to say.

    Raises:
        ConfigError: no such file, an override that Hydra cannot read, or a search path of Python modules.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    from nemo_pi.cli.hydra_targets import check_places

    GlobalHydra.instance().clear()
    words = [word if word[0] in "+~" else f"++{word}" for word in overrides]
    try:
        with hydra.initialize_config_dir(str(folder.expanduser().absolute()), version_base=None):
            name = name.removesuffix(".yaml")
            # Composing builds nothing that a YAML names; a search path of Python modules it would import.
            initialised = GlobalHydra.instance().hydra
            assert initialised is not None, "the folder's context has just been entered"
            check_places(initialised, name, words)
            composed = hydra.compose(name, overrides=words)
    except HydraException as error:
        raise refusal(error) from error
    values: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
    return values


def _task(name: str, arguments: Any) -> Task[Any, Any]:
    """A task from what stands under its name; its own errors then name the whole key."""
    PLUG_INS.check_claims(str(name), f"tasks.{name}")
    kind = task_type(str(name), f"tasks.{name}")
    try:
        return from_mapping(kind, {} if arguments in (None, True) else arguments, f"tasks.{name}")
    except NemoPiError as error:
        raise located(error, kind) from error


def located(error: NemoPiError, task: Any) -> NemoPiError:
    """An error about a task's argument, naming the key: `stride` becomes `tasks.perplexity.stride`."""
    return error.respelled({item.name: f"tasks.{task.name}.{item.name}" for item in fields(task)})


def _is_override(word: str) -> bool:
    if "=" not in word:
        return word.startswith("~")
    # A folder may have such a name.
    return _OVERRIDE.fullmatch(word) is not None and not Path(word).exists()


def _selected(configured: Any, text: str) -> dict[str, Any]:
    """The tasks that `tasks=[…]` names, with the arguments they have in the YAML."""
    import yaml

    names = convert(yaml.safe_load(text), list[str], "tasks")
    known = configured if isinstance(configured, Mapping) else {}
    return {name: None if known.get(name) is False else known.get(name) for name in names}


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if not isinstance(values.get(section), dict):
            if values.get(section) is False:  # a task that was left out stays out
                return
            values[section] = {}
        values = values[section]
    values[last] = value


class _Parser(Parser):
    """Names the tasks of all installed packages, which are imported only where somebody asks for help."""

    def format_help(self) -> str:
        """The flags, then every task's arguments."""
        self.epilog = _keys_of_tasks()
        return super().format_help()


def _keys_of_tasks() -> str:
    """Every task's arguments with their defaults, as overrides."""
    lines = ["Every key is explained in conf/evaluate.yaml. Tasks and their arguments:"]
    for name in task_names():
        try:
            kind: Any = task_type(name)
        except NemoPiError as error:  # a package's: help is for the others, too
            lines += [f"  tasks.{name}   cannot be used: {error}"]
            continue
        lines += [f"  tasks.{name}   {(kind.__doc__ or '').splitlines()[0]}"]
        for item in fields(kind):
            default = "required" if item.default is MISSING else item.default
            lines.append(f"    tasks.{name}.{item.name}={'null' if default is None else default}")
    return "\n".join(lines)
