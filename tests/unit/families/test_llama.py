"""What every family assumes where config.json is silent is what transformers assumes."""

from __future__ import annotations

from dataclasses import MISSING, fields

import pytest
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from nemo_pi.families.base import Family
from nemo_pi.families.llama import Llama
from nemo_pi.families.registry import families

SHIPPED = [family for family in families() if not family.remote_code]
LIKE_LLAMA = [family for family in SHIPPED if isinstance(family, Llama)]


@pytest.mark.parametrize("family", LIKE_LLAMA, ids=lambda family: family.name)
def test_defaults_are_those_of_transformers(family: Llama) -> None:
    """As the class declares them, before its own completion of what is None."""
    declared = {
        field.name: field.default
        for field in fields(CONFIG_MAPPING[family.name])
        if field.default is not MISSING
    }
    for key, value in family.defaults.items():
        assert declared.get(key) == value, key


@pytest.mark.parametrize("family", SHIPPED, ids=lambda family: family.name)
def test_transformers_calls_its_class_so(family: Family) -> None:
    assert MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family.name] == family.architecture
