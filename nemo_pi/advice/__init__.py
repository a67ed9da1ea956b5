"""Which method suits a checkpoint, before anyone trains it: candidates, what they measure, and a ranking."""
