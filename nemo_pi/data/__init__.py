"""From JSON lines to samples: tokenizers, indexed files, packing, PoSE, an order that resumes."""
