"""What reads the models that are measured."""

from __future__ import annotations

from pathlib import Path

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.config.parallelism import resolve_layout
from nemo_pi.config.schema import ModelConfig
from nemo_pi.engine.megatron_scorer import MegatronScorer
from nemo_pi.engine.opening import open_engine
from nemo_pi.errors import BackendUnavailableError
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.model.options import BackendRequests, BuildOptions


def fastest_scorer(model: Path, name: str) -> Scorer:
    """What reads: Megatron with the compiled attention, twice as fast as PyTorch's at these lengths.

    Where that cannot be had, transformers. Both give the same numbers to fp32 rounding, and the same answers.
    """
    summary = read_summary(model)
    build = BuildOptions(backends=BackendRequests(attention="native"))
    try:
        engine = open_engine(summary, resolve_layout(ModelConfig(), summary.shape, world_size=1), build)
    except BackendUnavailableError:
        return HuggingFaceScorer(model)
    return MegatronScorer(engine, name)
