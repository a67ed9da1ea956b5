"""Benchmarks: one script per claim, on the same work for all, with dated results beside them."""
