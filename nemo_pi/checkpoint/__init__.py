"""Distributed checkpoints, whole or not at all, and Hugging Face folders in and out; no code is ever run."""
