"""JSONL to megatron .bin/.idx, with NeMo's flags: ``python examples/preprocess_data.py --help``."""

from __future__ import annotations

if __name__ == "__main__":
    # Imported here: encoding processes import this file again and need nothing of it.
    from nemo_pi.cli.preprocess import main

    raise SystemExit(main())
