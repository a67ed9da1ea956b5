"""What the Hugging Face folder that a model came from said, kept so that an export can say it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

from nemo_pi.checkpoint.files import own_file, read_json
from nemo_pi.checkpoint.hf.folder import DTYPES, HuggingFaceWeights
from nemo_pi.checkpoint.hf.load import name_tied_matrix
from nemo_pi.checkpoint.hf.tokenizer import GENERATION_CONFIG
from nemo_pi.errors import CheckpointError
from nemo_pi.families.registry import family_of_config


@dataclass(frozen=True)
class HuggingFaceSource:
    """The source's own files and storage dtypes; no weights."""

    config: dict[str, Any]
    """config.json."""
    generation_config: dict[str, Any] | None = None
    """generation_config.json, if there is one."""
    dtype: str = "float32"
    """Storage dtype of most of its tensors, whatever config.json claims."""
    other_dtypes: dict[str, str] = field(default_factory=dict)
    """Storage dtypes of the tensors that differ from it (norms kept in fp32, for example)."""

    def dtype_of(self, name: str) -> str:
        """Storage dtype of one tensor."""
        return self.other_dtypes.get(name, self.dtype)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy, for a manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HuggingFaceSource:
        """The inverse of to_dict.

        Raises:
            CheckpointError: values are not such a copy.
        """
        try:
            source = cls(**values)
            unknown = {source.dtype, *source.other_dtypes.values()} - set(DTYPES.values())
            if unknown:
                raise TypeError(f"dtypes {sorted(unknown)}")
            if not isinstance(source.config, dict) or not isinstance(
                source.generation_config, (dict, NoneType)
            ):
                raise TypeError("a config that is not an object")
        except (TypeError, AttributeError) as error:
            raise CheckpointError(
                "source_config",
                required="what read_source_config returned",
                given=error,
                fix="pass it on unchanged",
            ) from error
        return source

    @classmethod
    def read(cls, folder: Path) -> HuggingFaceSource:
        """Reads a folder's configuration files and safetensors headers."""
        config = read_json(own_file(folder / "config.json", folder))
        weights = HuggingFaceWeights(folder)
        name_tied_matrix(weights, family_of_config(config))
        dtypes = weights.dtypes
        main = Counter(dtypes.values()).most_common(1)[0][0]
        generation = folder / GENERATION_CONFIG
        return cls(
            config=config,
            generation_config=read_json(own_file(generation, folder)) if generation.is_file() else None,
            dtype=main,
            other_dtypes={name: dtype for name, dtype in dtypes.items() if dtype != main},
        )
