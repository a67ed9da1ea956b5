"""What configuration, checkpoints and model all speak of: sizes of a model, and what a checkpoint says."""
