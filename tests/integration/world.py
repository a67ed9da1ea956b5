"""The small world that integration tests train in: real text, the bundled tokenizer, random models."""

from __future__ import annotations

import json
import lzma
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.integration.launch import EXTEND, PREPROCESS, ROOT, Fault, Finished, call, launch
from tests.integration.products import Curves, Weights, read_curves, read_weights

CHARACTERS = 60_000  # of text: some 20,000 tokens, three times what the longest run reads


@dataclass(frozen=True)
class Run:
    """A finished run and what it left behind."""

    folder: Path
    finished: Finished

    @property
    def logs(self) -> Path:
        """exp_manager's folder."""
        return self.folder / "results" / "run"

    @property
    def checkpoints(self) -> list[int]:
        """Steps of the distributed checkpoints, in order."""
        return sorted(
            int(path.name.removeprefix("step_")) for path in (self.logs / "checkpoints").glob("step_*")
        )

    @property
    def exported(self) -> Path:
        """The Hugging Face folder."""
        return self.folder / "exported"

    def curves(self) -> Curves:
        """Scalars by step."""
        return read_curves(self.logs)

    def weights(self) -> Weights:
        """The exported weights."""
        return read_weights(self.exported)


@dataclass
class World:
    """Data, start models, and the runs that were made so far."""

    folder: Path
    data_prefix: Path
    models: dict[str, Path] = field(default_factory=dict)
    """Start models by name: `untied` and `tied` Llamas, and one of every other family in STARTS."""
    _references: dict[tuple[str, ...], Run] = field(default_factory=dict)

    def arguments(self, *overrides: str, model: str = "untied") -> list[str]:
        """The command line of a run from 64 to 256 tokens, later overrides winning."""
        return [
            "model=auto",
            f"restore_from_path={self.models[model]}",
            f"model.data.data_prefix=[{self.data_prefix}]",
            *_DEFAULTS,
            *overrides,
        ]

    def run(
        self,
        name: str,
        *overrides: str,
        model: str = "untied",
        ranks: int = 1,
        launcher: str = "warm",
        fault: Fault | None = None,
    ) -> Run:
        """Trains in a folder of this name; it may hold an earlier run to resume."""
        folder = self.folder / name
        arguments = self.arguments(*overrides, model=model)
        finished = launch(
            arguments, folder=folder, ranks=ranks, launcher=launcher, fault=fault, script=EXTEND
        )
        return Run(folder, finished)

    def reference(self, *overrides: str, model: str = "untied", ranks: int = 1) -> Run:
        """An undisturbed run, made once for all tests that compare with it."""
        key = (model, str(ranks), *overrides)
        if key not in self._references:
            run = self.run(f"reference-{len(self._references)}", *overrides, model=model, ranks=ranks)
            run.finished.check()
            self._references[key] = run
        return self._references[key]


# Moves weights far enough to see, by steps that do not amplify rounding: Adam divides by the size of a
# gradient, and with a small eps a gradient of 1e-9 counts as much as one of 1.
_DEFAULTS = (
    "name=run",
    "trainer.max_steps=3",
    "trainer.accelerator=cpu",
    "trainer.val_check_interval=3",
    "trainer.limit_val_batches=1",
    "trainer.enable_progress_bar=false",
    "exp_manager.checkpoint_callback_params.every_n_train_steps=0",
    "model.max_position_embeddings=256",
    "model.pos_scaling_factor=4.0",
    "model.global_batch_size=4",
    "model.data.splits_string='900,100,0'",
    "model.optim.lr=1.0e-3",
    "model.optim.eps=1.0e-5",
    "model.optim.sched.warmup_steps=2",
    "model.export.hf_path=exported",
)


def make_world(folder: Path) -> World:
    """Writes text as .bin/.idx through examples/preprocess_data.py, and the start models."""
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "text.jsonl"
    with lzma.open(ROOT / "demo" / "text" / "valid.jsonl.xz", "rt") as lines, text.open("w") as out:
        for line in lines:
            whole = json.loads(line)["text"]
            # Short documents: samples then hold boundaries.
            for start in range(0, CHARACTERS // 6, 1000):
                out.write(json.dumps({"text": whole[start : start + 1000]}) + "\n")
    flags = f"--input {text} --output-prefix {folder / 'text'} --tokenizer-library huggingface --append-eod"
    launch(
        [*flags.split(), "--tokenizer-model", str(ROOT / "demo" / "model")],
        folder=folder / "preprocess",
        script=PREPROCESS,
    ).check()
    world = World(folder, folder / "text_text_document")
    for name in STARTS:
        call(write_model, folder / name, name, folder=folder / f"make_{name}").check()
        world.models[name] = folder / name
    return world


def _rope_by_kind(full: float, sliding: float) -> dict[str, Any]:
    """Plain rotary embeddings of two bases."""
    bases = {"full_attention": full, "sliding_attention": sliding}
    return {kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()}


# transformers' name of the family, and what differs from a Llama of 4 layers, 4 heads and 2 groups.
STARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "untied": ("llama", {}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    # The upper two layers look back 24 tokens.
    "qwen2": ("qwen2", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 2}),
    # Two tensor-parallel ranks cannot share it; 3 rows lie beyond the tokenizer.
    "odd": ("llama", {"vocab_size": 2051}),
    "odd_tied": ("llama", {"vocab_size": 2051, "tie_word_embeddings": True}),
    "mistral": ("mistral", {"sliding_window": 24, "head_dim": 32}),
    "qwen3": ("qwen3", {"tie_word_embeddings": True, "head_dim": 32}),
    # The third layer sees no positions, and 24 tokens back.
    "smollm3": ("smollm3", {"no_rope_layer_interval": 3, "use_sliding_window": True, "sliding_window": 24}),
    # A bias of logits that ranks cannot share evenly either.
    "phi": ("phi", {"qk_layernorm": True, "tie_word_embeddings": True, "vocab_size": 2051}),
    "gpt_neox": ("gpt_neox", {"rotary_pct": 0.5}),
    "gptj": ("gptj", {"rotary_dim": 8}),
    "stablelm": ("stablelm", {"use_parallel_residual": True, "use_qkv_bias": True}),
    "nemotron": ("nemotron", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "phi3": ("phi3", {"partial_rotary_factor": 0.5, "sliding_window": 24, "tie_word_embeddings": True}),
    "granite": (
        "granite",
        {
            "embedding_multiplier": 6.0,
            "attention_multiplier": 0.4,
            "residual_multiplier": 0.3,
            "logits_scaling": 0.5,
        },
    ),
    "olmo2": ("olmo2", {}),
    "glm4": ("glm4", {"head_dim": 16}),
    "baichuan": ("baichuan", {"num_key_value_heads": 4}),
    "internlm2": ("internlm2", {}),
    # Queries grow from the tenth token on.
    "ministral3": (
        "ministral3",
        {
            "head_dim": 32,
            "rope_parameters": {
                "rope_type": "default",
                "llama_4_scaling_beta": 0.3,
                "original_max_position_embeddings": 10,
            },
        },
    ),
    # The last of four layers attends to everything, by another base than the others.
    "olmo3": ("olmo3", {"sliding_window": 24, "rope_parameters": _rope_by_kind(1e4, 500.0)}),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 24,
            "sliding_window": 24,
            "sliding_window_pattern": 2,
            "tie_word_embeddings": True,
            "rope_parameters": _rope_by_kind(1e5, 1e3),
        },
    ),
}


def write_model(folder: Path, name: str) -> None:
    """A random model of window 64 with grouped queries and the bundled tokenizer, by transformers."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.unit.families.unshipped import STAND_INS, saved_as

    torch.manual_seed(7)
    family, settings = STARTS[name]
    sizes = {
        "vocab_size": 2048,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "initializer_range": 0.08,  # sharper attention than 0.02: positions matter to the loss
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": None,  # a family's own may lie outside this vocabulary
    }
    config = AutoConfig.for_model(STAND_INS.get(family, family), **{**sizes, **settings})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            # transformers starts them at 0 and 1, where a wrong order of channels would not show.
            if parameter_name.endswith("bias"):
                parameter.normal_(std=0.3)
            elif any(
                norm in parameter_name for norm in ("q_norm", "k_norm", "q_layer", "k_layer", "feedforward")
            ):
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    saved_as(folder, family)
    for file in (ROOT / "demo" / "model").glob("*token*"):
        shutil.copy(file, folder)
