"""What the README claims, measured: a real language model extended, and the papers' results in small."""
