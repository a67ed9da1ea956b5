"""Ways of attending over split rows that nemo_pi does not take, to be measured beside its own."""
