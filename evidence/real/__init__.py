"""SmolLM2-135M from 8,192 to 32,768 tokens: trained on short samples, measured before and after."""
