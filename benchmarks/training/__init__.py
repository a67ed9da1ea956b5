"""Training steps of several libraries on the same weights and tokens, each in a process of its own."""
