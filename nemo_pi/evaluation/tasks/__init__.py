"""What can be measured: each task plans its work, runs on a scorer, and owns its table, plot and JSON."""
