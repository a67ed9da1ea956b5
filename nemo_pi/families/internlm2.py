"""InternLM2 and 2.5: a Llama with names of its own and one tensor for query, key and value, group by group.

transformers has no class for it. The one beside its weights is never run: the model is a Llama, and is
exported as one unless its own architecture is asked for.

Shape legend: H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from nemo_pi.errors import CheckpointError
from nemo_pi.families.entries import flag, unusable
from nemo_pi.families.llama import Llama
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.table import LayerNames
from nemo_pi.rope.hf import to_hf
from nemo_pi.rope.methods.dynamic import Dynamic
from nemo_pi.rope.methods.linear import Linear
from nemo_pi.rope.methods.plain import Plain
from nemo_pi.rope.spec import ContextExtension

_SCALINGS = tuple(method.hf_types[0] for method in (Plain, Linear, Dynamic))  # that its class knows


class InternLm2(Llama):
    """model_type internlm2."""

    name = "internlm2"
    architecture = "InternLM2ForCausalLM"
    remote_code = True
    by_features = False
    layer_names = LayerNames(
        input_norm="attention_norm",
        qkv=("attention.wqkv",),
        proj="attention.wo",
        mlp_norm="ffn_norm",
        fc1=("feed_forward.w1", "feed_forward.w3"),
        fc2="feed_forward.w2",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "bias": True,
    }
    embedding = replace(Llama.embedding, huggingface=("model.tok_embeddings.weight",))
    output = replace(Llama.output, huggingface=("output.weight",))

    def read_shape(self, config: Mapping[str, Any]) -> ModelShape:
        """As Llama's, but no biases, for which its key is `bias`; its class has no head_dim of its own."""
        shape = super().read_shape(config)
        if shape.head_dim * shape.num_attention_heads != shape.hidden_size:
            raise unusable("head_dim", "hidden_size / num_attention_heads", shape.head_dim)
        if flag({**self.defaults, **config}, "bias"):
            fix = "start from a checkpoint without them"
            raise unusable("bias", "false (biases are not supported)", True, fix)
        return shape

    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json that say what `shape` says."""
        entries = super().shape_entries(shape)
        kept = {key: entries[key] for key in entries if key not in ("attention_bias", "mlp_bias", "head_dim")}
        return {**kept, "bias": False}

    def extension_entries(self, extension: ContextExtension) -> dict[str, Any]:
        """rope_theta and rope_scaling, in which its class looks for a `type`."""
        entries = super().extension_entries(extension)
        scaling = entries.get("rope_scaling")
        if scaling is not None:
            entries["rope_scaling"] = {"type": scaling["rope_type"], "factor": scaling["factor"]}
        return entries

    def check_exportable(self, extension: ContextExtension) -> None:
        """Refuses what its class does not compute: all but linear scaling, dynamic NTK and another base."""
        super().check_exportable(extension)
        rope_type = to_hf(extension)["rope_parameters"]["rope_type"]
        if rope_type not in _SCALINGS:
            raise CheckpointError(
                "model.export.architecture",
                required=f"another class than {self.architecture}, which has no {extension.method} scaling",
                given=self.architecture,
                fix="model.export.architecture=auto writes the same function as a Llama",
            )

    def same_function(self, shape: ModelShape) -> tuple[ModelShape, ...]:
        """A Llama, bit by bit."""
        return (replace(shape, family=Llama.name),)
