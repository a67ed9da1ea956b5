"""A GPU's first minutes: what runs on it, whether it computes the same, how fast, and in how much memory."""
