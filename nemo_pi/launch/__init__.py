"""Launching on a cluster: settings in, an sbatch script out; pure text, so that it can be tested as text."""

from nemo_pi.launch.job import SlurmJob
from nemo_pi.launch.sbatch import render_sbatch

__all__ = ["SlurmJob", "render_sbatch"]
