"""One file per contestant: `run(job, pacer)`, and `make_step(job)` where nobody else owns the loop."""
