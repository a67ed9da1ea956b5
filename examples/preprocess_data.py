"""JSONL to megatron .bin/.idx: ``python examples/preprocess_data.py --input book.jsonl --output-prefix out``."""

from __future__ import annotations

from nemo_pi.data.preprocess_cli import main

if __name__ == "__main__":
    raise SystemExit(main())
