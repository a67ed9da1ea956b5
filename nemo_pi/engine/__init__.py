"""One replica at work: model, optimizer, Megatron's schedule, its state in and out. No Lightning, no YAML."""
