"""Megatron's GPT with rotary tables from position ids, PyTorch attention, a chunked loss; and generation."""
