"""Two published ideas that are no keys here, tried on the bundled model: python -m evidence.left_out."""
