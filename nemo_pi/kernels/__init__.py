"""Rotary kernels: the reference, Triton, PyTorch operators, adapters, and the registry that chooses."""
