"""Rotary positions as pure maths: the spec, one file per method, angles, Hugging Face's spelling."""
