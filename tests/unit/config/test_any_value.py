"""Whatever a YAML says, the answer is a run that can be planned or an error that a person can act on."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_pi.config.load import resolve
from nemo_pi.config.memory import estimate_memory
from nemo_pi.config.schema import ModelConfig
from nemo_pi.errors import NemoPiError
from tests.unit.config.builders import YAML_SHAPE, summary_of, values_of


def _paths(values: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    paths: list[tuple[str, ...]] = []
    for key, value in values.items():
        paths += _paths(value, (*above, key)) if isinstance(value, dict) else [(*above, key)]
    return paths


PATHS = _paths(asdict(ModelConfig()))
ANYTHING = st.one_of(
    st.sampled_from(
        [None, True, False, "", "???", "none", "1e3", "16", "yarn", "full", "block", "auto", {}, []]
    ),
    st.sampled_from(
        [[0.9, 0.95], ["/a", "/b"], {"beta_fast": 1.0}, {"_target_": "x"}, float("nan"), float("inf")]
    ),
    st.integers(min_value=-2, max_value=9),
    st.sampled_from([64, 512, 1024, 4096, 32768]),
    st.floats(min_value=-2.0, max_value=20.0),
)


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    changes=st.dictionaries(st.sampled_from(PATHS), ANYTHING, max_size=3),
    world_size=st.integers(min_value=0, max_value=8),
    from_scratch=st.booleans(),
)
def test_a_plan_or_an_error(changes: dict[tuple[str, ...], Any], world_size: int, from_scratch: bool) -> None:
    model: dict[str, Any] = {**YAML_SHAPE, "data": {"data_prefix": ["/a"]}}
    for path, value in changes.items():
        section = model
        for key in path[:-1]:
            section = section.setdefault(key, {})
        section[path[-1]] = value
    summary = None if from_scratch else summary_of()
    try:
        run = resolve(values_of(model), world_size=world_size, summary=summary)
    except NemoPiError as error:
        assert error.field and error.required and error.fix
        return
    layout = run.parallel
    assert layout.world_size == world_size
    assert run.num_micro_batches * run.micro_batch_size * layout.dp == run.global_batch_size
    assert (
        layout.layers_per_chunk(run.shape.num_layers) * layout.pp * (layout.vpp or 1) == run.shape.num_layers
    )
    assert 1 <= run.training_length <= run.extension.target_window
    assert run.extension.original_window <= run.extension.target_window
    assert estimate_memory(run).total > 0
