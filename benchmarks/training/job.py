"""What a contestant is asked to train; equal for all of them but for the name."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """One model, one sample of tokens, one optimizer: everything a contestant's process has to know."""

    contestant: str
    """Name of the contestant; `-compiled` at its end asks for torch.compile."""
    folder: str
    """Made by material.py: Hugging Face weights, and tokens.npy."""
    size: str
    """Name in sizes.SIZES."""
    length: int
    """Tokens of the one sample that every step trains on."""
    target_window: int
    """Positions are interpolated from the size's window to this one; PoSE spreads the sample over it."""
    device: str = "cpu"
    """cpu, in fp32, or cuda, in bf16 over fp32 weights."""
    recompute: bool = False
    """Keep each layer's input only and compute the rest again in the backward pass."""
    pose: bool = False
    """Positions skip, PoSE-wise (arXiv 2309.10400); otherwise 0, 1, 2, …"""
    lr: float = 3e-4
    """Constant learning rate of AdamW."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates; its weight decay is 0."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    clip_grad: float = 1.0
    """Largest norm of the gradient."""

    @property
    def compiled(self) -> bool:
        """Whether the model runs through torch.compile."""
        return self.contestant.endswith("-compiled")

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return self.device == "cuda"

    @property
    def corpus(self) -> Path:
        """Prefix of indexed data whose every sample of `length` tokens is the one sample."""
        return Path(self.folder) / f"corpus_{self.length}"

    def to_json(self) -> str:
        """For the command line of a process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The inverse of to_json."""
        values = json.loads(text)
        return cls(**{**values, "betas": tuple(values["betas"])})
