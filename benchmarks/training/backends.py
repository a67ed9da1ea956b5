"""What nemo_pi computes with at a benchmark's size and length, measured where it is not known yet."""

from __future__ import annotations

from benchmarks.training.job import Job


def backends_note(job: Job) -> str:
    """A sentence for the result file; the verdicts are kept for the contestants' processes."""
    # Imported here: the contestants' YAML imports NeMo, which takes seconds.
    from benchmarks.training.contestants.nemo_pi_yaml import resolved_run
    from nemo_pi.model.backends import choose_backends

    engine = resolved_run(job).engine
    chosen = choose_backends(engine.workload(), engine.build.backends)
    parts = ", ".join(f"{kind} {described}" for kind, described in chosen.describe().items())
    return f"nemo_pi at {job.size} and {job.length:,} tokens: {parts}."
