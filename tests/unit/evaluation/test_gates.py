"""Gates: bounds on what tasks measured, which fail the command."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
import yaml

from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.gates import check_gates, failures
from nemo_pi.evaluation.passkey_result import PasskeyGrid, PasskeyResult
from nemo_pi.evaluation.perplexity import PerplexityResult
from nemo_pi.evaluation.results import ModelResults
from nemo_pi.evaluation.ruler.result import RulerResult
from nemo_pi.evaluation.tasks.base import Measured, Task
from nemo_pi.evaluation.tasks.passkey import Passkey
from nemo_pi.evaluation.tasks.perplexity import Perplexity
from nemo_pi.evaluation.tasks.registry import PLUG_INS, task_type
from nemo_pi.evaluation.tasks.ruler import Ruler
from nemo_pi.evaluation.tasks.short import Short

TASKS = [Short(), Passkey(), Ruler()]
TARGET = 1024
GATES = [(kind, name) for kind in map(task_type, sorted(PLUG_INS.built_in)) for name in kind.gates]


def model(name: str, perplexity: float, found: int = 10, score: float = 0.9) -> ModelResults:
    grid = PasskeyGrid((512, 1024), (0.0,), 10, ((10,), (found,)))
    return ModelResults(
        name,
        512,
        1024,
        {
            "short": PerplexityResult({}, {512: perplexity}),
            "passkey": PasskeyResult({}, grid),
            "ruler": RulerResult({}, {512: {"vt": 0.9}, 1024: {"vt": score}}, 10, 512),
        },
    )


def test_who_stays_within_the_bounds_passes() -> None:
    models = [model("base", 10.0, found=0, score=0.0), model("after", 10.19)]
    bounds = {"short_perplexity": 1.02, "k_max": 1024, "effective_length": 1024}
    check_gates(bounds, TASKS, 2, TARGET)
    assert failures(models, bounds, TASKS) == [], "the first model is what is compared with"


def test_each_failure_names_the_model_and_both_numbers() -> None:
    models = [model("base", 10.0), model("good", 10.0), model("bad", 10.5, found=1, score=0.5)]
    bounds = {"short_perplexity": 1.02, "k_max": 1024, "effective_length": 1024}
    perplexity, k_max, length = failures(models, bounds, TASKS)
    assert perplexity == (
        "bad: perplexity at the original window, divided by the first model's is 1.05, required at most 1.02 "
        "(short_perplexity)"
    )
    assert k_max == "bad: k_max of pass keys is 512, required at least 1,024 (k_max)"
    assert length == (
        "bad: RULER's effective length is 512 by the mean of 1 of RULER's 13 subtasks (vt), required at "
        "least 1,024 (effective_length)"
    )


def test_what_is_missing_or_no_number_fails() -> None:
    models = [model("base", 10.0), model("nan", math.nan), ModelResults("none", 512, 1024)]
    found = failures(models, {"short_perplexity": 1.02}, TASKS)
    assert len(found) == 2 and "is nan" in found[0] and "not measured" in found[1]


def test_gates_that_nothing_can_pass_are_refused_before_anything_is_measured() -> None:
    with pytest.raises(ConfigError, match=r"^gate\.short_perplexty: .*did you mean 'short_perplexity'"):
        check_gates({"short_perplexty": 1.0}, TASKS, 2, TARGET)
    with pytest.raises(ConfigError, match=r"^gate\.short_perplexity: .*k_max"):
        check_gates({"short_perplexity": 1.0}, [Passkey()], 2, TARGET)
    with pytest.raises(ConfigError, match=r"To fix: measure it, too: 'tasks=\[perplexity,short\]'$"):
        check_gates({"short_perplexity": 1.0}, [Perplexity()], 2, TARGET)
    for bound in ("1.02", None, True, math.nan):
        with pytest.raises(ConfigError, match=r"^gate\.k_max: required a number"):
            check_gates({"k_max": bound}, TASKS, 2, TARGET)  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="at least two models"):
        check_gates({"k_max": 512}, TASKS, 1, TARGET)
    check_gates({}, [], 1, TARGET)


@pytest.mark.parametrize(("kind", "name"), GATES, ids=[name for _, name in GATES])
@pytest.mark.parametrize("lengths", [None, (256, 512)], ids=str)
def test_what_is_suggested_is_accepted(
    kind: type[Task[Any, Any]], name: str, lengths: tuple[int, ...] | None
) -> None:
    """A bound of the gate's own kind, that can be kept: tokens for a length, near 1 for a ratio."""
    own = lengths is not None and "lengths" in {item.name for item in fields(kind)}  # type: ignore[arg-type]
    task = kind(**{"lengths": lengths} if own else {})
    with pytest.raises(ConfigError) as raised:
        check_gates({name: "far"}, [task], 2, TARGET)  # type: ignore[dict-item]
    key, _, bound = raised.value.fix.partition("=")
    assert key == f"gate.{name}" and (not own or bound == "512")
    assert (0.5 < float(bound) < 2) == kind.gates[name].compares
    check_gates({name: yaml.safe_load(bound)}, [task], 2, TARGET)


@pytest.mark.parametrize(("kind", "name"), [(Passkey, "k_max"), (Ruler, "effective_length")])
def test_a_bound_beyond_all_that_is_tried_is_refused(kind: type[Passkey | Ruler], name: str) -> None:
    """After hours, it could do nothing but fail."""
    with pytest.raises(ConfigError, match=rf"^gate\.{name}: .*at most 1024.*given 1025\. .*=1024$"):
        check_gates({name: 1025}, [kind()], 2, TARGET)
    longer = rf"=512, or add 1024 to tasks\.{kind.name}\.lengths$"
    with pytest.raises(ConfigError, match=longer):
        check_gates({name: 1024}, [kind(lengths=(512, 256))], 2, TARGET)
    check_gates({name: 512}, [kind(lengths=(512, 256))], 2, TARGET)
    check_gates({name: 1024}, [kind(lengths=(512, 256, 1024))], 2, TARGET)


def test_the_table_divides_by_the_first_model() -> None:
    models = [
        Measured(m.name, 512, 1024, m.tasks.get("short"))
        for m in (model("base", 10.0), model("after", 10.25), ModelResults("none", 512, 1024))
    ]
    table = Short.table(models)  # type: ignore[arg-type]
    assert table.lines == (("base", "10.00", "1.000"), ("after", "10.25", "1.025"), ("none", "–", "–"))
