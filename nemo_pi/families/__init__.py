"""Model families: what is particular to Llama, Mistral, … stands in one file each, and nowhere else."""
