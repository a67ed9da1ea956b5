"""The bundled demonstration: public-domain text, a small tokenizer and model, and what prepares them."""
