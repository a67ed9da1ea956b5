"""A checkpoint's model shown to be computed as it was meant: beside transformers, and beside itself."""
