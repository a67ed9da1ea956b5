"""Contestants, tasks and report of benchmarks/rope.py."""
