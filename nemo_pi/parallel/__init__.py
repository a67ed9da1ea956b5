"""The only readers of Megatron's global state: groups, layouts, splits of sequences, and the CPU shim."""
