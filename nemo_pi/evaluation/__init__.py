"""Tasks on a model, and their report. Takes a scorer, which rates labels and generates, not a model class."""
