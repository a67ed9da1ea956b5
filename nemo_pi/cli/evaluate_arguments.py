"""The command line of examples/evaluate.py: conf/evaluate.yaml, overrides in Hydra's way, and flags.

Flags are short for keys. They are set after the YAML and the overrides have been composed, so that a path in
a flag needs none of the quotes that Hydra wants around unusual characters.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_pi.cli.evaluate_config import BACKENDS, DTYPES, EvaluateConfig, check_keys
from nemo_pi.cli.evaluate_help import describe_tasks
from nemo_pi.cli.flags import LAYOUT_FLAGS
from nemo_pi.cli.parser import Parser
from nemo_pi.config.merge import convert, from_mapping
from nemo_pi.config.overrides import refusal
from nemo_pi.config.plain import plain
from nemo_pi.errors import ConfigError

CONF = Path(__file__).resolve().parents[2] / "conf"
_OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w.]*(=.*)?", re.DOTALL)
_SELECTION = re.compile(r"\+{0,2}tasks=\s*(\[.*\]|\w+)", re.DOTALL)
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
    "add-bos": (
        "add_bos",
        bool,
        "begin with the BOS token (default: where the tokenizer adds it)",
    ),
    **{name.replace("_", "-"): (name, int, f"{text} (default 1)") for name, text in LAYOUT_FLAGS.items()},
}


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
    check_keys(values)
    return from_mapping(EvaluateConfig, values)


def parser(description: str | None = None) -> argparse.ArgumentParser:
    """The command line's flags; everything else is a model or an override."""
    made = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("words", nargs="*", metavar="MODEL | key=value", help="checkpoints, and overrides")
    made.add_argument("--config-path", type=Path, default=CONF, help="folder of the YAML (default conf/)")
    made.add_argument("--config-name", default="evaluate", help="its name (default evaluate)")
    for flag, (key, kind, text) in FLAGS.items():
        if kind is bool:
            made.add_argument(f"--{flag}", action=argparse.BooleanOptionalAction, help=f"{key}: {text}")
            continue
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

    from nemo_pi.cli.hydra_targets import check_places
    from nemo_pi.cli.yaml_files import read_yaml_files_so

    read_yaml_files_so()
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
    except (TypeError, AttributeError, RecursionError) as error:  # Hydra's own, of lists where a name belongs
        raise ConfigError(
            "command line",
            required="key=value, with keys of conf/evaluate.yaml",
            given=str(error),
            fix="leave out what begins with + or ~",
        ) from error
    return plain(composed)


def _is_override(word: str) -> bool:
    if "=" not in word:
        return word.startswith("~")
    # A folder may have such a name.
    return _OVERRIDE.fullmatch(word) is not None and not Path(word).exists()


def _selected(configured: Any, text: str) -> dict[str, Any]:
    """The tasks that `tasks=[…]` or `tasks=NAME` names, with the arguments they have in the YAML."""
    import yaml

    names = convert(yaml.safe_load(text) if text.startswith("[") else [text], list[str], "tasks")
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
        self.epilog = describe_tasks()
        return super().format_help()
