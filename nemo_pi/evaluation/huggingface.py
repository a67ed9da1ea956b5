"""A scorer over any transformers causal language model in a local folder: rates labels and generates.

Loading is data only: safetensors weights, classes that transformers ships, nothing fetched, no remote code.

Shapes: B windows in a batch, S tokens in a window, N = B*S, H hidden size, V vocabulary size.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_pi.bounded.files import read_bytes
from nemo_pi.bounded.json_text import MOST_JSON_BYTES, parse_json
from nemo_pi.errors import CheckpointError, ConfigError, check_ids, quoted
from nemo_pi.evaluation.generation import Generated, GenerationRequest, generate_batch, generation_batches
from nemo_pi.evaluation.huggingface_cache import CachedLogits, reset_frequencies
from nemo_pi.evaluation.huggingface_positions import set_positions
from nemo_pi.evaluation.scorer import TokenScores, score_hidden, score_logits
from nemo_pi.families.entries import MOST_LAYERS, size
from nemo_pi.families.inert import without_code
from nemo_pi.rope.spec import ContextExtension


class HuggingFaceScorer:
    """Scores a transformers causal LM with explicit position ids, with the logits made a chunk at a time.

    Args:
        folder: a local folder with config.json and *.safetensors.
        name: what reports call it; the folder's name by default.
        dtype: of the weights and activations. fp32 by default, so that results do not depend on how the
            weights are stored; give torch.bfloat16 for a model that would not fit otherwise. Scores are fp32
            either way.
        device: "cuda" where there is one, else "cpu", by default.
        chunk_tokens: how many tokens' logits [chunk_tokens, V] are held at once.

    Raises:
        CheckpointError: no such folder, no safetensors, weights missing or of other shapes, an architecture
            that transformers does not ship, or one that takes no position ids.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        name: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device | None = None,
        chunk_tokens: int = 512,
    ) -> None:
        if chunk_tokens < 1:
            raise ConfigError("chunk_tokens", required="≥ 1 token", given=chunk_tokens, fix="give e.g. 512")
        folder = Path(folder)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = _load(folder, dtype).to(self.device).eval().requires_grad_(False)
        self.chunk_tokens = chunk_tokens
        self._name = name or folder.resolve().name
        self._extension: ContextExtension | None = None
        self._vocab_size: int = self.model.get_input_embeddings().weight.shape[0]
        self._head_is_linear = self._probe_head()

    @property
    def name(self) -> str:
        """What reports call this model."""
        return self._name

    def read_as(self, extension: ContextExtension) -> None:
        """From now on reads positions as this extension says, whatever config.json does; weights stay.

        Raises:
            CheckpointError: the model has no rotary frequencies that could be replaced.
        """
        set_positions(self.model, extension, extension.target_window)
        self._extension = extension

    def _prepare(self, length: int) -> None:
        """Makes ready for a text of so many tokens."""
        if self._extension is not None:
            set_positions(self.model, self._extension, length)

    @torch.inference_mode()
    def score(self, tokens_BS: Tensor, labels_BS: Tensor, position_ids_BS: Tensor) -> TokenScores:
        """Rate each label as the successor of the tokens up to its index (see `Scorer.score`).

        Raises:
            DataError: an id outside the vocabulary (on a GPU it would otherwise end the process).
        """
        self._check_ids(tokens_BS, labels_BS)
        reset_frequencies(self.model)
        self._prepare(int(position_ids_BS.max()) + 1)
        labels_N = labels_BS.reshape(-1).to(self.device)
        inputs = self._inputs(tokens_BS, position_ids_BS)
        if self._head_is_linear:
            hidden_BSH = self.model.base_model(**inputs)[0]
            head = self.model.get_output_embeddings()
            logprob_N, greedy_N = score_hidden(hidden_BSH.flatten(0, 1), labels_N, head, self.chunk_tokens)
        else:
            logits_NV = self.model(**inputs).logits.flatten(0, 1)
            chunks = zip(logits_NV.split(self.chunk_tokens), labels_N.split(self.chunk_tokens), strict=True)
            scores = [score_logits(logits, labels) for logits, labels in chunks]
            logprob_N, greedy_N = (torch.cat(part) for part in zip(*scores, strict=True))
        return TokenScores(logprob_N.view(labels_BS.shape).cpu(), greedy_N.view(labels_BS.shape).cpu())

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], request: GenerationRequest) -> list[Generated]:
        """Go on from prompts of any lengths (see `Scorer.generate`).

        Raises:
            DataError: an empty prompt, or an id outside the vocabulary.
        """
        generated: dict[int, Generated] = {}
        for numbers in generation_batches([len(prompt) for prompt in prompts], request):
            self._check_ids(torch.tensor([list(prompts[number]) for number in numbers]))
            next_logits = CachedLogits(self.model, self.device, self._prepare)
            texts = generate_batch(next_logits, prompts, numbers, request)
            generated.update(zip(numbers, texts, strict=True))
        return [generated[number] for number in range(len(prompts))]

    def _inputs(self, tokens_BS: Tensor, position_ids_BS: Tensor) -> dict[str, Any]:
        # Without a mask transformers takes every jump of the position ids for the start of another document.
        # An all-ones mask says there is one; it is recognised and costs no explicit mask in the attention.
        return {
            "input_ids": tokens_BS.to(self.device),
            "position_ids": position_ids_BS.to(self.device),
            "attention_mask": torch.ones_like(tokens_BS, device=self.device),
            "use_cache": False,
        }

    def _check_ids(self, *ids: Tensor) -> None:
        for name, tensor in zip(("tokens", "labels"), ids, strict=False):
            low, high = int(tensor.min()), int(tensor.max())
            fix = "tokenize with the tokenizer of this checkpoint"
            check_ids(name, low, high, self._vocab_size, whose=f"the vocabulary of {self.name}", fix=fix)

    @torch.inference_mode()
    def _probe_head(self) -> bool:
        # Some architectures scale or cap the logits after the head; their base model and head alone would be
        # wrong. Asked of the model itself, bit for bit, because a cap hardly shows on small logits.
        tokens_BS = torch.arange(min(8, self._vocab_size))[None]
        inputs = self._inputs(tokens_BS, torch.arange(tokens_BS.shape[1])[None])
        head = self.model.get_output_embeddings()
        if head is None:
            return False
        return torch.equal(head(self.model.base_model(**inputs)[0]), self.model(**inputs).logits)


def _load(folder: Path, dtype: torch.dtype) -> Any:
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            "checkpoint folder",
            required="a local folder with config.json and *.safetensors",
            given=folder,
            fix="give the folder of a Hugging Face model saved with safe_serialization",
        )
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=configuration(folder),
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except CheckpointError:
        raise
    except Exception as error:  # transformers' checks of a config.json raise kinds of their own
        raise CheckpointError(
            "checkpoint folder",
            required="a causal language model that transformers loads without running code from the folder",
            given=f"{folder} ({quoted(error)})",
            fix="check config.json and the weights; architectures with code of their own are not loaded",
        ) from error
    _check_loaded(folder, model, info)
    return model


def configuration(folder: Path) -> Any:
    """config.json as transformers' own class reads it, without what names code or a kernel to download.

    Nor an attention of transformers' own: it may need a package that is not installed here, and models that
    are compared should be computed alike.
    """
    from transformers import CONFIG_MAPPING

    values = parse_json(read_bytes(folder / "config.json", MOST_JSON_BYTES))
    values = without_code(values, implementations=False)
    if "num_hidden_layers" in values:
        # transformers makes lists with an entry for each layer before it looks at anything else.
        size(values, "num_hidden_layers", MOST_LAYERS)
    kind = values.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"config.json: model_type {kind!r} is none that transformers ships")
    return CONFIG_MAPPING[kind].from_dict(values)


def _check_loaded(folder: Path, model: Any, info: dict[str, Any]) -> None:
    # transformers only warns and goes on with random numbers.
    wrong = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in info.get(kind, ()))
    if wrong:
        raise CheckpointError(
            "checkpoint folder",
            required="every weight of the model that config.json describes",
            given=f"{folder} without {', '.join(wrong[:5])}{' …' if len(wrong) > 5 else ''}",
            fix="copy the folder again, or correct config.json",
        )
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise CheckpointError(
            "checkpoint folder",
            required="a model whose forward takes position_ids",
            given=type(model).__name__,
            fix="evaluate a model with rotary positions",
        )
