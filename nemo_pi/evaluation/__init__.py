"""Perplexity and passkey retrieval by context length, and their report. Takes a scorer, not a model class."""
