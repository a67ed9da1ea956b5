"""Searches for what a scaling method cannot compute from numbers alone: LongRoPE's factors."""
