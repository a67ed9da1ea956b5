"""nemo_pi: make a RoPE GPT read many times further than it was trained to, with NeMo and Megatron."""

__version__ = "0.1.0"
