"""The truth to compare with: transformers' model of a folder in float64, and what rounding does to it.

Weights are read where the forward pass arrives at them: rows of the embedding, some rows of a matrix, a norm.
So no model is too large.

Shape legend: B rows, S tokens, V vocabulary, H hidden size, L layers, P positions, O and I output and input
channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from nemo_pi.checkpoint.hf.folder import HuggingFaceWeights
from nemo_pi.errors import CheckpointError
from nemo_pi.evaluation.huggingface import configuration
from nemo_pi.evaluation.huggingface_cache import reset_frequencies
from nemo_pi.parallel.cpu_memory import return_freed_memory
from nemo_pi.verification.double import InDouble, has_frequencies
from nemo_pi.verification.empty import without_weights
from nemo_pi.verification.probes import Probes

# Elements of a matrix that are held at once, in float64.
_CHUNK = 2**23


@dataclass(frozen=True)
class Truth:
    """What transformers computes of probes, and how far rounding would move it."""

    logits_BSV: Tensor
    """float64."""
    moved_BS: Tensor
    """float64, by how much the logits of a token move at most when every product of the model is rounded."""
    layers_LBSH: Tensor
    """float64, hidden states behind each layer."""
    layers_moved_LBS: Tensor
    """float64, by how much those of a token move at most, as `moved_BS`."""
    tables: tuple[tuple[Tensor, Tensor], ...]
    """Cosines and sines [B, S, 2F], float64, of every call of a module that makes them."""


class Reference:
    """transformers' model of a folder; only headers are read until it is asked.

    Args:
        folder: config.json and safetensors of a family that transformers ships.
        unit: relative rounding of one number in the dtype that is verified.
        passed: called behind each module that holds weights, for a progress bar.

    Raises:
        CheckpointError: transformers has no class for it, or does not find its weights.
    """

    def __init__(self, folder: Path, unit: float, passed: Callable[[], None] = lambda: None) -> None:
        self.folder, self._unit, self._passed = folder, unit, passed
        self._weights = HuggingFaceWeights(folder)
        self._model = _skeleton(folder)
        self._names = self._stored_names()
        self._draw = torch.Generator().manual_seed(0)
        self._double = InDouble()
        self._double.watch(self._model)
        self._seen_layers: list[Tensor] = []
        self._seen_tables: list[tuple[Tensor, Tensor]] = []
        for module in self._model.modules():
            if module._parameters:
                self._stream(module)
            if has_frequencies(module):
                module.register_forward_hook(self._keep_tables)
        for layer in self._layers():
            layer.register_forward_hook(self._keep_hidden)

    @property
    def vocab_size(self) -> int:
        """Rows of its embedding."""
        return int(self._model.get_input_embeddings().weight.shape[0])

    @torch.no_grad()
    def truth(self, probes: Probes, *, each_row: bool) -> Truth:
        """Logits and hidden states of all rows.

        Args:
            probes: what is read.
            each_row: whether every row is a pass of its own, for methods that depend on the length.
        """
        tokens, positions = probes.tokens_BS, probes.positions_BS
        size = 1 if each_row else len(tokens)
        rows = [self._read(*pair) for pair in zip(tokens.split(size), positions.split(size), strict=True)]
        tables = zip(*(row.tables for row in rows), strict=True)
        return Truth(
            logits_BSV=torch.cat([row.logits_BSV for row in rows]),
            moved_BS=torch.cat([row.moved_BS for row in rows]),
            layers_LBSH=torch.cat([row.layers_LBSH for row in rows], dim=1),
            layers_moved_LBS=torch.cat([row.layers_moved_LBS for row in rows], dim=1),
            tables=tuple(
                (torch.cat([cos for cos, _ in calls]), torch.cat([sin for _, sin in calls]))
                for calls in tables
            ),
        )

    def _read(self, tokens_BS: Tensor, positions_BS: Tensor) -> Truth:
        """One forward pass over the rows twice: as they are, and with every product rounded."""
        self._seen_layers.clear()
        self._seen_tables.clear()
        reset_frequencies(self._model)
        both = [torch.cat((x_BS, x_BS)) for x_BS in (tokens_BS, self._looked_up(positions_BS))]
        with self._double:
            logits = self._model(
                input_ids=both[0],
                position_ids=both[1],
                # Without it, gaps in positions would be taken for new documents.
                attention_mask=torch.ones_like(both[0]),
                use_cache=False,
            ).logits
        exact_BSV, rounded_BSV = logits.chunk(2)
        layers = [hidden.chunk(2) for hidden in self._seen_layers]
        return Truth(
            logits_BSV=exact_BSV,
            moved_BS=(rounded_BSV - exact_BSV).abs().amax(-1),
            layers_LBSH=torch.stack([exact for exact, _ in layers]),
            layers_moved_LBS=torch.stack([(rounded - exact).abs().amax(-1) for exact, rounded in layers]),
            tables=tuple((cos.chunk(2)[0], sin.chunk(2)[0]) for cos, sin in self._seen_tables),
        )

    def _looked_up(self, positions_BS: Tensor) -> Tensor:
        """Positions as the model is to be told them.

        GPT-J looks sines and cosines up in tables that end with its window. It gets tables of just these
        positions, and their places in them.
        """
        modules = [module for module in self._model.modules() if "embed_positions" in module._buffers]
        if not modules:
            return positions_BS
        position_P, place_BS = positions_BS.unique(return_inverse=True)
        for module in modules:
            dim = module.pos_embd_dim
            # Frequencies as its class makes them, in fp32; the angles that follow in float64.
            inverse = 1.0 / (10000 ** (torch.arange(0, dim, 2) / dim))
            angle = position_P.double()[:, None] * inverse.double()
            module._buffers["embed_positions"] = torch.cat((angle.sin(), angle.cos()), dim=1)
        return place_BS

    # --- the model without its weights ---

    def _stored_names(self) -> dict[int, str]:
        """The folder's name of each parameter, by its identity: tied ones are one object."""
        names: dict[int, str] = {}
        stored = _as_modules_call_them(self._model, self._weights.sizes)
        for name, parameter in self._model.named_parameters(remove_duplicate=False):
            if name in stored:
                names.setdefault(id(parameter), stored[name])
        missing = [name for name, parameter in self._model.named_parameters() if id(parameter) not in names]
        if missing:
            raise CheckpointError(
                str(self.folder),
                required="every weight of the model that config.json describes",
                given=f"none called {', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}",
                fix="copy the folder again, or correct config.json",
            )
        return names

    def _layers(self) -> list[nn.Module]:
        """transformers' decoder layers: the list of as many modules as the model has layers."""
        count = self._model.config.num_hidden_layers
        lists = (module for module in self._model.modules() if isinstance(module, nn.ModuleList))
        return list(next(found for found in lists if len(found) == count))

    # --- weights on the way ---

    def _stream(self, module: nn.Module) -> None:
        names = {
            own: self._names[id(param)] for own, param in module._parameters.items() if param is not None
        }
        blank = dict(module._parameters)
        weight = module._parameters.get("weight")
        if type(module) is nn.Linear and weight is not None and weight.numel() > _CHUNK:
            module.forward = partial(self._product, names)  # type: ignore[method-assign]
        else:
            module.register_forward_pre_hook(partial(self._fill, names))
        module.register_forward_hook(partial(self._behind, blank))

    def _fill(self, names: dict[str, str], module: nn.Module, args: tuple[Any, ...]) -> None:
        with self._double.paused():
            for own, name in names.items():
                if isinstance(module, nn.Embedding):
                    value = self._rows_of(name, args[0])
                else:
                    value = self._weights.read(name).double()
                module._parameters[own] = nn.Parameter(value, requires_grad=False)

    def _rows_of(self, name: str, ids: Tensor) -> Tensor:
        """An embedding whose other rows are never touched, and so take no memory."""
        weight = torch.empty(self._weights.sizes[name], dtype=torch.float64)
        for number in ids.unique().tolist():
            weight[number] = self._weights.rows(name, number, 1)[0].double()
        return weight

    def _product(self, names: dict[str, str], x: Tensor) -> Tensor:
        """A large linear layer, some output channels at a time."""
        weight_name = names["weight"]
        num_outputs, num_inputs = self._weights.sizes[weight_name]
        step = max(1, _CHUNK // num_inputs)
        with self._double.paused():
            parts = [
                linear(x, self._weights.rows(weight_name, start, step).double())
                for start in range(0, num_outputs, step)
            ]
            product = torch.cat(parts, dim=-1)
            return product + self._weights.read(names["bias"]).double() if "bias" in names else product

    def _behind(self, blank: dict[str, Any], module: nn.Module, args: Any, output: Any) -> Any:
        module._parameters.update(blank)
        self._passed()
        if not isinstance(output, Tensor) or output.size(0) % 2:
            return output
        # The second half of the batch is the same rows again, rounded: one pass shows what rounding costs.
        exact, rounded = output.chunk(2)
        return torch.cat((exact, self._rounded(rounded)))

    def _rounded(self, x: Tensor) -> Tensor:
        """Moved by as much as rounding moves it.

        A number that is rounded to a dtype moves by up to its unit, evenly distributed: the output by its own
        size, and by its row's for the weights. The sums behind it are fp32's in any dtype.
        """
        rms = x.square().mean(-1, keepdim=True).sqrt()
        size = self._unit / math.sqrt(3) * (rms.square() + x.square()).sqrt() + 2.0**-24 * (rms + x.abs())
        return x + size * torch.randn(x.shape, generator=self._draw, dtype=x.dtype)

    # --- what is kept ---

    def _keep_hidden(self, module: nn.Module, args: Any, output: Any) -> None:
        self._seen_layers.append((output if isinstance(output, Tensor) else output[0]).clone())
        return_freed_memory()

    def _keep_tables(self, module: nn.Module, args: Any, output: Any) -> None:
        cos, sin = output
        self._seen_tables.append((cos, sin))


def _skeleton(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        config = configuration(folder)
        with without_weights():
            # eager: its softmax is a call that can be told to compute in float64.
            model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    except CheckpointError:
        raise
    except Exception as error:  # transformers' checks of a config.json raise kinds of their own
        raise CheckpointError(
            str(folder),
            required="the folder of a causal language model that transformers has a class for",
            given=error,
            fix="give another with --against, such as an export of the model",
        ) from error
    return model.eval().requires_grad_(False)


def reads_anywhere(folder: Path) -> bool:
    """Whether transformers' class makes tables of any position, not one table of its window (GPT-J)."""
    return any(has_frequencies(module) for module in _skeleton(folder).modules())


def _as_modules_call_them(model: Any, stored: Iterable[str]) -> dict[str, str]:
    """{name of a parameter: name in the file}: transformers renames some when it loads (embed_out)."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming
    except ImportError:  # before transformers 5 modules had the files' names
        return {name: name for name in stored}
    renamings = [found for found in get_model_conversion_mapping(model) if type(found) is WeightRenaming]
    names = {}
    for name in stored:
        own = name
        for renaming in renamings:
            own, _ = renaming.rename_source_key(own)
        names[own] = name
    return names
