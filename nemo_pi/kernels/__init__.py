"""What computes: rotary, attention, norm, activation, softmax, products, and the registry that chooses."""
