"""`stages`: one launch that trains several times over, each time with a few keys of its own.

A stage is the whole configuration with its keys laid over the `model` section: what it does not say is as
`model` says it, never as the stage before did. So every check of a run is a check of a stage, and the factor
of each counts from the original window.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from nemo_pi.config.merge import UnknownKey, convert, places, unknown_keys
from nemo_pi.config.schema import ModelConfig
from nemo_pi.config.sections import DataConfig, ExportConfig, OptimConfig, SchedConfig
from nemo_pi.config.shapes import SHAPE_KEYS
from nemo_pi.errors import ConfigError, ConfigErrors, NemoPiError, Together

_SECTIONS: dict[tuple[str, ...], type] = {
    ("data",): DataConfig,
    ("optim",): OptimConfig,
    ("optim", "sched"): SchedConfig,
    ("export",): ExportConfig,
}
"""Sections of `model` whose keys a stage may give one by one."""

_OF_THE_TRAINER = ("max_steps", "gradient_clip_val", "val_check_interval", "limit_val_batches")
_OPTIONS = ("reset_optimizer", "reset_data")
_SHORT = {"pose": ("data", "pose")}
"""Keys of a stage that stand deeper in `model`."""

_SHAPE = (
    *SHAPE_KEYS,
    *("rotary_base", "rotary_percentage", "rotary_interleaved", "sliding_rotary", "query_scaling"),
    *("position_embedding_type", "normalization", "init_method_std", "hidden_dropout", "attention_dropout"),
)
_OF_THE_RUN = {
    "restore_from_path": "each stage goes on from the one before",
    "original_max_position_embeddings": "factors of all stages count from one original window",
    "allow_rescaling": "whether the checkpoint's own scaling may be replaced is asked once",
    "seed": "weights are made once; data.seed is a stage's own",
    "tokenizer": "one model has one tokenizer",
    "use_distributed_optimizer": "the two kinds of optimizer states do not read each other",
    "skip_bad_steps": "it counts over the whole run",
    "distributed_timeout_minutes": "ranks wait alike in all stages",
    "peft": "adapters are made once",
    "stages": "stages have no stages",
    **dict.fromkeys(_SHAPE, "it is the shape of the model, which no stage changes"),
}
"""Keys of `model` that no stage may give, and why."""


@dataclass(frozen=True)
class StageKeys:
    """What one entry of `stages` says."""

    number: int
    """From 0."""
    model: dict[tuple[str, ...], Any]
    """Path below `model` → value, in the order in which they were given."""
    trainer: dict[str, Any]
    """Keys of the trainer section; max_steps is among them."""
    reset_optimizer: bool
    """Whether Adam begins anew."""
    reset_data: bool
    """Whether data is read from the first sample."""

    @property
    def name(self) -> str:
        """As messages call it."""
        return f"stages[{self.number}]"


def take_stages(values: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """A configuration without its `stages`, and those: the entry at the top level or under model.

    Raises:
        ConfigError: both places have one.
    """
    model = values.get("model")
    inner = model.get("stages") if isinstance(model, Mapping) else None
    top = values.get("stages")
    if inner is not None and top is not None and inner != top:
        raise ConfigError(
            "stages",
            required="one list: at the top level or under model",
            given="both stages and model.stages",
            fix="model.stages=null keeps the one at the top level",
        )
    rest = {key: value for key, value in values.items() if key != "stages"}
    if isinstance(model, Mapping):
        rest["model"] = {key: value for key, value in model.items() if key != "stages"}
    return rest, _as_list(inner if top is None else top)


def _as_list(given: Any) -> Any:
    """A list, where overrides of the command line (stages.0.max_steps=5) made a section of numbered keys."""
    if (
        isinstance(given, Mapping)
        and given
        and {str(key) for key in given} == set(map(str, range(len(given))))
    ):
        return [given[key] for key in sorted(given, key=int)]
    return given


def read_stages(given: Any) -> list[StageKeys]:
    """Every entry of `stages`, its keys known and its steps given; values are checked with the whole run.

    Raises:
        ConfigError: no list of sections, an empty one, unknown keys, keys that are the run's, no max_steps.
    """
    if not isinstance(given, list) or not given:
        raise ConfigError(
            "stages",
            required="a list of sections, such as [{max_steps: 150, pose: paper}, {max_steps: 50}]",
            given="an empty list" if given == [] else f"{type(given).__name__}",
            fix="stages=null trains once, by model and trainer.max_steps",
        )
    together = Together()
    read = [together.run(_read, number, entry) for number, entry in enumerate(given)]
    together.stop()
    return [stage for stage in read if stage is not None]


def _read(number: int, entry: Any) -> StageKeys:
    name = f"stages[{number}]"
    if not isinstance(entry, Mapping):
        raise ConfigError(
            name,
            required="a section with the keys of a stage (max_steps, ...)",
            given=f"{entry!r} ({type(entry).__name__})"[:200],
            fix="{max_steps: 100, ...} in its place",
        )
    flat = dict(_flattened(entry, ()))
    _refuse_unknown(name, flat)
    trainer = {path[0]: value for path, value in flat.items() if path[0] in _OF_THE_TRAINER}
    options = {path[0]: value for path, value in flat.items() if path[0] in _OPTIONS}
    if trainer.get("max_steps") is None:
        raise ConfigError(
            f"{name}.max_steps",
            required="optimizer steps of this stage",
            given="none",
            fix=f"stages.{number}.max_steps=100 (trainer.max_steps is not read where there are stages)",
        )
    return StageKeys(
        number,
        {path: value for path, value in flat.items() if path[0] not in {*trainer, *options}},
        trainer,
        *(convert(options.get(key, False), bool, f"{name}.{key}") for key in _OPTIONS),
    )


def _flattened(entry: Mapping[Any, Any], above: tuple[str, ...]) -> Any:
    """(path, value) of every key, dotted or nested; keys of a section one by one, any other value whole."""
    for key, value in entry.items():
        path = (*above, *str(key).split("."))
        if path[0] in ("model", "trainer") and len(path) > 1 and not above:
            path = path[1:]  # as the key is called in the whole YAML
        if path == ("pose",) and isinstance(value, str):
            value = {"sampler": value}  # pose=paper of the command line, where it names a file that says so
        path = (*_SHORT.get(path[0], path[:1]), *path[1:])
        if path in _SECTIONS and isinstance(value, Mapping):
            yield from _flattened(value, path)
        elif path in (("model",), ("trainer",)) and isinstance(value, Mapping):
            yield from _flattened(value, ())
        else:
            yield path, value


_MODEL_KEYS = tuple(field.name for field in fields(ModelConfig))
_KEYS = (
    *_OF_THE_TRAINER,
    *_OPTIONS,
    *_SHORT,
    *(key for key in _MODEL_KEYS if key not in _OF_THE_RUN),
)


def _refuse_unknown(name: str, flat: Mapping[tuple[str, ...], Any]) -> None:
    """Keys that a stage does not have, each with the nearest one; keys of the run, each with its reason."""
    together = Together()
    for path in flat:
        dotted = f"{name}.{'.'.join(path)}"
        if path[0] in _OF_THE_RUN:
            together.keep(
                ConfigError(
                    dotted,
                    required=f"model.{path[0]}, one for all stages: {_OF_THE_RUN[path[0]]}",
                    given="a value for one stage",
                    fix=f"set model.{path[0]} and leave it out here",
                )
            )
        elif (found := _unknown(name, path)) is not None:
            together.keep(
                ConfigError(
                    dotted,
                    required=found.required,
                    given=f"the unknown key {found.name.rpartition('.')[2]!r}",
                    fix=found.fix,
                )
            )
    together.stop()


def _unknown(name: str, path: tuple[str, ...]) -> UnknownKey | None:
    """What is not known of a path, at whichever of its levels; None: all of it is."""
    if path[0] not in _KEYS:
        below = tuple(f"{name}.{place}" for place in places(ModelConfig, path[0]))
        return UnknownKey(f"{name}.{path[0]}", name, _KEYS, below if len(path) == 1 else ())
    if path[0] not in _MODEL_KEYS:
        return None if len(path) == 1 else UnknownKey(f"{name}.{'.'.join(path)}", name, _KEYS)
    overlay: Any = None
    for part in reversed(path):
        overlay = {part: overlay}
    found = unknown_keys(ModelConfig, overlay, name)
    return found[0] if found else None


def values_of_stage(base: Mapping[str, Any], stage: StageKeys, *, last: bool) -> dict[str, Any]:
    """The whole configuration of one stage.

    Args:
        base: of the run, from take_stages.
        stage: the entry.
        last: whether it is the last one, which alone exports to the run's own folder.
    """
    values = copy.deepcopy(dict(base))
    model = values["model"] = dict(values.get("model") or {})
    values["trainer"] = {**(values.get("trainer") or {}), **stage.trainer}
    if not last and isinstance(model.get("export"), Mapping):
        model["export"] = {**model["export"], "hf_path": None, "peft_path": None}
    _drop_what_is_replaced(model, stage)
    for path, value in stage.model.items():
        section = model
        for key in path[:-1]:
            inner = section.get(key)
            section[key] = dict(inner) if isinstance(inner, Mapping) else {}
            section = section[key]
        section[path[-1]] = copy.deepcopy(value)
    return values


_FACTORS = ("pos_scaling_factor", "seq_len_interpolation_factor")


def _drop_what_is_replaced(model: dict[str, Any], stage: StageKeys) -> None:
    """Keys of `model` that say the same as one of the stage's in other words, or belong to another method.

    A window and a factor name one thing, and a method's arguments mean nothing to another method.
    """
    given = {path[0] for path in stage.model}
    if "max_position_embeddings" in given and not given.intersection(_FACTORS):
        model.update(dict.fromkeys(_FACTORS))
    elif given.intersection(_FACTORS) and "max_position_embeddings" not in given:
        model["max_position_embeddings"] = None
    for factor, other in (_FACTORS, _FACTORS[::-1]):
        if factor in given and other not in given:
            model[other] = None
    method = stage.model.get(("pos_scaling_type",))
    if "pos_scaling_type" in given and method != model.get("pos_scaling_type"):
        model["pos_scaling_extra_args"] = None


_Error = TypeVar("_Error", bound=NemoPiError)
_KEY = re.compile(r"\bmodel\.((\w+)(?:\.\w+)*)")
_TRAINER_KEY = re.compile(rf"\btrainer\.({'|'.join(_OF_THE_TRAINER)})\b")


def respelled(error: _Error, number: int) -> _Error:
    """An error of a stage in the names that the stage has for its keys.

    The field as `stages[1].key`, overrides in the texts as the command line takes them, `stages.1.key=…`.
    """
    if isinstance(error, ConfigErrors):
        return type(error)([respelled(one, number) for one in error.errors])

    def text(given: Any, prefix: str) -> Any:
        if not isinstance(given, str):
            return given

        def own(match: re.Match[str]) -> str:
            return match[0] if match[2] in _OF_THE_RUN else f"{prefix}.{match[1]}"

        return _TRAINER_KEY.sub(rf"{prefix}.\1", _KEY.sub(own, given))

    name, dotted = f"stages[{number}]", f"stages.{number}"
    field = text(error.field, name)
    if field == error.field:
        field = f"{name}: {field}"
    return type(error)(
        field,
        required=text(error.required, dotted),
        given=text(error.given, dotted),
        fix=text(error.fix, dotted),
    )
