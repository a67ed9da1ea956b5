"""A Llama in llama.cpp's format (GGUF), read by transformers' own tables and the package gguf.

transformers' reader gives names, sizes and the order of channels, but reads all tensors at once and passes
over the scaling of positions; here tensors come one by one, and the scaling becomes `rope_parameters`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nemo_pi.checkpoint.collective import as_checkpoint_error
from nemo_pi.checkpoint.hf.folder import StoredWeights
from nemo_pi.checkpoint.hf.gguf_header import check_gguf
from nemo_pi.checkpoint.hf.gguf_rope import rope_entries
from nemo_pi.errors import BackendUnavailableError, CheckpointError
from nemo_pi.families.llama import GGUF_ARCHITECTURE

_FACTORS = "rope_freqs.weight"
# Stored as they are; every other type is quantised, and its values are exact in fp32.
_PLAIN = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class GgufWeights(StoredWeights):
    """The tensors of one GGUF file under Hugging Face's names; its configuration and tokenizer, too.

    Args:
        file: a GGUF file that holds the whole model.

    Raises:
        BackendUnavailableError: the package gguf is missing.
        CheckpointError: no GGUF file, a damaged one, or another architecture.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self._reader = _opened(file)
        self._fields = {name: _value(field) for name, field in self._reader.fields.items()}
        architecture = self._fields.get("general.architecture")
        if architecture != GGUF_ARCHITECTURE:
            raise CheckpointError(
                f"{file}: general.architecture",
                required=f"{GGUF_ARCHITECTURE} (others come in as safetensors)",
                given=repr(architecture),
                fix="give the safetensors that the file was made from",
            )
        self._stored = {tensor.name: tensor for tensor in self._reader.tensors}
        with as_checkpoint_error(
            str(file), required="the sizes of a Llama", fix="give the safetensors that the file was made from"
        ):
            self._config = _config(file)
            self._processor, self._hf_names = _tables(self._config)
        self._add_all(file)

    def _add_all(self, file: Path) -> None:
        names = {}
        for name, tensor in self._stored.items():
            if name == _FACTORS:
                continue
            hf_name = self._hf_names.get(name, name)
            names[hf_name] = name
            # Rows come last in the file's own shapes.
            sizes = tuple(int(size) for size in reversed(tensor.shape))
            self.add(hf_name, file, sizes, _PLAIN.get(tensor.tensor_type.name, "float32"))
        self._own_names = names
        self.check_any()

    def config(self) -> dict[str, Any]:
        """config.json: what transformers' reader says, and how positions are scaled.

        Raises:
            CheckpointError: scaling that config.json has no words for.
        """
        embedding = self._stored.get("token_embd.weight")
        values = dict(self._config)
        if embedding is not None:
            values["vocab_size"] = int(embedding.shape[-1])  # a tokenizer may know fewer
        factors = self._stored.get(_FACTORS)
        found = None if factors is None else torch.from_numpy(_dequantised(factors).copy()).float()
        prefix = f"{GGUF_ARCHITECTURE}.rope."
        rope = {key.removeprefix(prefix): v for key, v in self._fields.items() if key.startswith(prefix)}
        rope = {key: _decimal(value) for key, value in rope.items()}
        head_dim = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
        return values | _special_tokens(self._fields) | rope_entries(rope, head_dim, found, str(self.folder))

    def read(self, name: str) -> Tensor:
        """One tensor, dequantised, in the order of channels that Hugging Face has."""
        own = self._own_names[name]
        values = self._processor.process(weights=_dequantised(self._stored[own]), name=own).weights
        return torch.from_numpy(values.copy()).to(getattr(torch, self.dtypes[name]))

    def rows(self, name: str, start: int, count: int) -> Tensor:
        """As StoredWeights."""
        return self.read(name)[start : start + count]

    def save_tokenizer(self, folder: Path) -> None:
        """Writes the tokenizer that the file holds, as transformers converts it; none where it has none."""
        if "tokenizer.ggml.tokens" not in self._fields:
            return
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(
            self.folder.parent, gguf_file=self.folder.name, local_files_only=True, trust_remote_code=False
        )
        tokenizer.save_pretrained(folder)


def _opened(file: Path) -> Any:
    if find_spec("gguf") is None:
        raise BackendUnavailableError(
            str(file),
            required="the package gguf, which reads this format",
            given="not installed",
            fix="pip install 'nemo_pi[gguf]'",
        )
    from gguf import GGUFReader

    try:
        check_gguf(file)
        return GGUFReader(file)
    except Exception as error:  # ValueError, IndexError, struct's and numpy's: whatever the bytes provoke
        raise CheckpointError(
            str(file),
            required="a complete GGUF file",
            given=f"{type(error).__name__}: {error}",
            fix="download or copy this file again: it is truncated or damaged",
        ) from error


def _value(field: Any) -> Any:
    """A field's number or text; of lists nothing, which only tokenizers have."""
    try:
        return None if len(field.data) != 1 else field.contents()
    except (AttributeError, ValueError, IndexError):
        return None


def _special_tokens(fields: dict[str, Any]) -> dict[str, int | None]:
    names = {"bos": "bos", "eos": "eos", "pad": "padding"}
    return {f"{name}_token_id": fields.get(f"tokenizer.ggml.{own}_token_id") for name, own in names.items()}


def _dequantised(tensor: Any) -> Any:
    from gguf import dequantize

    return dequantize(tensor.data, tensor.tensor_type)


def _config(file: Path) -> dict[str, Any]:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        file.parent, gguf_file=file.name, local_files_only=True, trust_remote_code=False
    )
    values = config.to_diff_dict()
    values["architectures"] = [f"{type(config).__name__.removesuffix('Config')}ForCausalLM"]
    dropped = ("quantization_config", "_name_or_path", "_model_name_or_path")
    return {key: _decimal(value) for key, value in values.items() if key not in dropped}


def _decimal(value: Any) -> Any:
    """An fp32 number as it was written: 1e-6, not 9.999999974752427e-07."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _tables(config: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """transformers' converter of this architecture's tensors, and Hugging Face's names of them."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, get_gguf_hf_weights_map

    processor = TENSOR_PROCESSORS[GGUF_ARCHITECTURE](config=config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    return processor, get_gguf_hf_weights_map(model, processor)
