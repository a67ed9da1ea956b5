"""The engine, NeMo's model around it, Lightning's loop around that, and command lines over checkpoints."""
