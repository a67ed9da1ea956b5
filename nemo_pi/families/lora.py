"""Low-rank adapters beside a model's linear layers (LoRA, arXiv 2106.09685): where they are, and what their
matrices are made of in Megatron's layers and in Hugging Face's.

A layer W [O, I] with an adapter computes W·x + (alpha / r)·B·A·x, with A [r, I] and B [O, r]. Megatron fuses
query, key and value, and gate and up, into one W. NeMo's variant gives that one W one A, which all of its
parts read; the canonical variant gives each tensor that Hugging Face stores an A of its own, which is what
`peft` trains there. Either way B's rows are W's rows: they are fused, split and reordered by W's own rule.

Shape legend: r adapter_dim, K matrices A of one fused layer, O rows of a layer, I columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import isfinite
from types import MappingProxyType
from typing import Any

from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.weights import LAYER, Sizes, WeightRule

LINEARS = (
    "self_attention.linear_qkv",
    "self_attention.linear_proj",
    "mlp.linear_fc1",
    "mlp.linear_fc2",
)
"""Megatron's names of the linear layers that may have an adapter."""
_QKV, _PROJ, _FC1, _FC2 = LINEARS
TARGETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "attention_qkv": (_QKV,),
        "attention_dense": (_PROJ,),
        "mlp_fc1": (_FC1,),
        "mlp_fc2": (_FC2,),
        "attention": (_QKV, _PROJ),
        "mlp": (_FC1, _FC2),
        "all": LINEARS,
        "linear_qkv": (_QKV,),
        "linear_proj": (_PROJ,),
        "linear_fc1": (_FC1,),
        "linear_fc2": (_FC2,),
    }
)
"""What `target_modules` may name: NeMo 1.x's words, then NeMo 2's."""
NEMO, CANONICAL = "nemo", "canonical"
VARIANTS = (NEMO, CANONICAL)
INITS = ("xavier", "kaiming", "normal")
"""How A begins: NeMo's xavier_normal_ or normal_ (0.2), or the uniform numbers that `peft` takes."""
ADAPTER = "adapter."
"""Where an adapter hangs below its linear layer."""
A, B = f"{ADAPTER}lora_A", f"{ADAPTER}lora_B"
"""Names of its matrices there."""


@dataclass(frozen=True)
class Lora:
    """What is trained in place of all weights."""

    dim: int
    """The rank r."""
    alpha: float
    """What an adapter adds is multiplied by alpha / r."""
    linears: tuple[str, ...]
    """Which of LINEARS have an adapter, in that order."""
    variant: str = NEMO
    """One of VARIANTS."""
    dropout: float = 0.0
    """Part of an adapter's input that is left out at random while it is trained."""
    init: str = "xavier"
    """One of INITS; B begins as 0."""
    embeddings_and_norms: bool = False
    """Whether the token embedding and all norms are trained, too (arXiv 2309.12307, section 3.3)."""
    seed: int = 1234
    """Of the first numbers of A, and of dropout."""

    @property
    def scale(self) -> float:
        """What the product of an adapter is multiplied by."""
        return self.alpha / self.dim

    def trains(self, parameter: str) -> bool:
        """Whether a parameter of the model itself is trained.

        Args:
            parameter: its name in the family's table.
        """
        return self.embeddings_and_norms and (parameter.startswith("embedding.") or "norm" in parameter)

    def to_dict(self) -> dict[str, Any]:
        """As from_dict reads it; JSON-ready."""
        return {**asdict(self), "linears": list(self.linears)}

    @classmethod
    def from_dict(cls, values: Any) -> Lora:
        """The inverse of to_dict.

        Raises:
            TypeError: it was not made by to_dict.
        """
        try:
            found = cls(**{**values, "linears": tuple(values["linears"])})
        except (KeyError, TypeError) as error:
            raise TypeError(f"no description of adapters: {error}") from error
        if not found._is_sound():
            raise TypeError(f"no description of adapters: {str(values)[:200]}")
        return found

    def _is_sound(self) -> bool:
        whole, real = (self.dim, self.seed), (self.alpha, self.dropout)
        return (
            all(type(number) is int for number in whole)
            and all(type(number) in (int, float) and isfinite(number) for number in real)
            and (self.dim > 0 and 0 <= self.dropout < 1)
            and bool(self.linears)
            and set(self.linears) <= set(LINEARS)
            and self.variant in VARIANTS
            and self.init in INITS
            and type(self.embeddings_and_norms) is bool
        )


@dataclass(frozen=True)
class AdapterRules:
    """One adapted linear layer: how its weight is stored, and how A and B are."""

    linear: str
    """One of LINEARS."""
    weight: WeightRule
    """Of the layer's own weight."""
    a: WeightRule
    """Of A [K·r, I]; its Hugging Face tensors [r, I] are what each part of the layer reads."""
    b: WeightRule
    """Of B [O, r]."""
    sources: tuple[int, ...]
    """Which of the K matrices A each part of the weight reads."""

    @property
    def splits_rows(self) -> bool:
        """Whether tensor-parallel ranks share the layer's rows (and B's); else its columns (and A's)."""
        return self.weight.split_dim == 0

    @property
    def num_sources(self) -> int:
        """K."""
        return max(self.sources) + 1

    @property
    def stacked(self) -> bool:
        """Whether a rank's rows are its parts of two matrices on top of each other (gate and up)."""
        return len(self.weight.huggingface) > 1 and not self.weight.by_group


def adapter_rules(lora: Lora, shape: ModelShape) -> tuple[AdapterRules, ...]:
    """The adapted linear layers of each layer, in Megatron's order."""
    table = {rule.megatron: rule for rule in family_of(shape).layer_rules(shape)}
    return tuple(_rules(lora, linear, table[f"{LAYER}{linear}.weight"]) for linear in lora.linears)


def _rules(lora: Lora, linear: str, weight: WeightRule) -> AdapterRules:
    stored = list(dict.fromkeys(weight.huggingface))
    sources = [stored.index(name) if lora.variant == CANONICAL else 0 for name in weight.huggingface]
    read = [name for name in stored if lora.variant == CANONICAL] or stored[:1]

    def a_sizes(shape: ModelShape) -> tuple[Sizes, ...]:
        return ((lora.dim, weight.sizes(shape)[0][1]),) * len(read)

    def b_sizes(shape: ModelShape) -> tuple[Sizes, ...]:
        return tuple((rows, lora.dim) for rows, _ in weight.sizes(shape))

    columns = weight.split_dim == 1
    return AdapterRules(
        linear,
        weight,
        WeightRule(
            f"{LAYER}{linear}.{A}",
            tuple(_renamed(name, "lora_A") for name in read),
            a_sizes,
            split_dim=1 if columns else None,
        ),
        replace(
            weight,
            megatron=f"{LAYER}{linear}.{B}",
            huggingface=tuple(_renamed(name, "lora_B") for name in weight.huggingface),
            sizes=b_sizes,
            split_dim=None if columns else 0,
        ),
        tuple(sources),
    )


def _renamed(weight: str, matrix: str) -> str:
    return f"{weight.removesuffix('.weight')}.{matrix}.weight"


def num_trained(lora: Lora, shape: ModelShape) -> int:
    """Parameters of a whole model that have gradients, those of adapters among them."""
    family = family_of(shape)
    in_layer = [rule for rule in family.layer_rules(shape) if lora.trains(rule.megatron)]
    ends = (family.embedding, family.final_norm, *family.last_biases)
    around = [rule for rule in ends if lora.trains(rule.megatron)]
    kept = shape.num_layers * sum(rule.num_parameters(shape) for rule in in_layer)
    return num_adapted(lora, shape) + kept + sum(rule.num_parameters(shape) for rule in around)


def num_adapted(lora: Lora, shape: ModelShape, *, layers: int | None = None, tp: int = 1) -> int:
    """Numbers of all adapters in some layers, on one of `tp` tensor-parallel ranks.

    Args:
        layers: how many; None: all.
    """
    each = sum(
        rule.num_parameters(shape, tp) for rules in adapter_rules(lora, shape) for rule in (rules.a, rules.b)
    )
    return each * (shape.num_layers if layers is None else layers)
