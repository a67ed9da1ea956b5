"""A distributed checkpoint to a Hugging Face folder, or back: which way follows from what `source` is.

A checkpoint of adapters (model.peft) is merged into its base, or with --peft written for `peft`.
Pickled weights (pytorch_model.bin) and GGUF files of a Llama become a Hugging Face folder of safetensors.

    python examples/convert_checkpoint.py results/run/checkpoints/step_00000200 exported/
    python examples/convert_checkpoint.py llama-7b-old/ llama-7b/
    python examples/convert_checkpoint.py model-Q8_0.gguf model/ --dtype bfloat16
    torchrun --nproc-per-node 4 examples/convert_checkpoint.py llama-7b/ checkpoint/ \\
        --tensor-model-parallel-size 2 --pipeline-model-parallel-size 2

Several ranks divide the model between them, so that none has to hold it whole. The layout is that of the
conversion only: a distributed checkpoint opens at any. Nothing that exists is overwritten unasked.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nemo_pi.checkpoint.hf.folder import DTYPES
from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.cli.ends import reports_errors
from nemo_pi.cli.parser import Parser
from nemo_pi.families.export import AUTO
from nemo_pi.families.registry import family_of
from nemo_pi.units import plural


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", type=Path, help="distributed checkpoint, Hugging Face folder or GGUF file")
    parser.add_argument("target", type=Path, help="folder to write")
    parser.add_argument(
        "--tensor-model-parallel-size", type=int, default=1, help="ranks that share each matrix (default 1)"
    )
    parser.add_argument(
        "--pipeline-model-parallel-size", type=int, default=1, help="ranks that share the layers (default 1)"
    )
    parser.add_argument(
        "--dtype", choices=sorted(DTYPES.values()), help="of Hugging Face weights (default: as stored)"
    )
    parser.add_argument(
        "--architecture",
        default=AUTO,
        help="class of transformers to write, one that computes the same function (default auto: its\n"
        "own where transformers has that and it can compute the positions)",
    )
    parser.add_argument(
        "--peft", action="store_true", help="write a checkpoint of adapters as peft loads them, not merged"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint or export at `target`")
    return parser.parse_args()


def describe(found: CheckpointSummary) -> str:
    """What was found, in a few lines."""
    shape, extension = found.shape, found.extension
    parameters = family_of(shape).num_parameters(shape)
    positions = f"{extension.target_window} tokens, not scaled"
    if extension.is_scaled:
        windows = f"{extension.original_window} to {extension.target_window} tokens"
        positions = f"{windows}, {extension.method} by {extension.factor:g}"
    return "\n".join(
        [
            f"Found {found.path} ({found.kind})",
            f"  model      {shape.family}, {parameters:,} parameters in {found.dtype}, "
            f"{plural(shape.num_layers, 'layer')} × {shape.hidden_size}",
            f"  window     {positions} ({found.window_source})",
            f"  trained    {plural(found.global_step, 'step')}, {plural(found.consumed_samples, 'sample')}",
            f"  tokenizer  {found.tokenizer_path or 'none'}",
        ]
    )


@reports_errors
def main() -> None:
    """Converts and says what it found and wrote."""
    args = parse()
    # Imported here: the flags are looked at before Megatron, which takes seconds to import.
    from nemo_pi.cli.convert import convert
    from nemo_pi.parallel import groups, launcher

    found, kind = convert(
        args.source,
        args.target,
        tp=args.tensor_model_parallel_size,
        pp=args.pipeline_model_parallel_size,
        dtype=args.dtype,
        overwrite=args.overwrite,
        architecture=args.architecture,
        as_peft=args.peft,
    )
    if launcher.is_global_zero():
        print(f"{describe(found)}\nWrote {args.target} ({kind})")
    groups.destroy()


if __name__ == "__main__":
    main()
