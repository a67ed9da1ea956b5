"""The sbatch script of a SlurmJob: one torchrun a node, in the container, resumed after a signal.

Pure text: nothing here looks at the machine, so the same job always gives the same script.
"""

from __future__ import annotations

import re
import shlex

from nemo_pi.launch.job import SlurmJob

_TEMPLATE = """\
#!/bin/bash
{{directives}}
# One launcher on each node, and through it the entry point that runs everywhere else:
#     sbatch [options of sbatch] extend_context.sbatch [key=value ...]
# What follows the script's name is handed to the entry point; options of sbatch win over the lines above.
# NEMO_PI_IMAGE and NEMO_PI_MOUNTS in the environment replace the container's settings below.
# Rendered by examples/slurm/render.py: `python examples/slurm/render.py --help` lists what can be set.
set -euo pipefail

image=${NEMO_PI_IMAGE:-{{image}}}
mounts=${NEMO_PI_MOUNTS:-{{mounts}}}

# The ranks meet at the first node; a port made from the job's number keeps two jobs on one node apart.
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR=${NEMO_PI_MASTER_ADDR:-${hosts[0]}}
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export GPUS_PER_NODE=${SLURM_GPUS_ON_NODE:-{{gpus}}}
# Megatron overlaps communication with computation only if kernels start in the order they were queued.
export CUDA_DEVICE_MAX_CONNECTIONS=1
# Packages come from the image, never from a home folder that the container happens to see.
export PYTHONNOUSERSITE=1 PYTHONUNBUFFERED=1
# To torchrun and srun every status but 0 is a failure; a run that stopped for the signal is none.
export NEMO_PI_STOPPED_STATUS=0

{{launcher}}
srun --ntasks-per-node=1 {{cpus}}--cpu-bind=none --kill-on-bad-exit=1 \\
    --container-image="$image" --container-mounts="$mounts" --container-workdir={{workdir}} \\
    bash -c "$launcher" launcher {{entry_point}} \\
    trainer.num_nodes="$SLURM_NNODES" trainer.devices="$GPUS_PER_NODE" \\
    exp_manager.exp_dir={{results}} ++exp_manager.resume_if_exists=true \\
    ++exp_manager.resume_ignore_no_checkpoint=true {{arguments}}{{ending}}"""

_TORCHRUN = """\
torchrun --nnodes="$SLURM_NNODES" --node-rank="$SLURM_NODEID" --nproc-per-node="$GPUS_PER_NODE" \\
        --master-addr="$MASTER_ADDR" --master-port="$MASTER_PORT" --max-restarts=0 "$@\""""

_PLAIN_LAUNCHER = f"""\
# shellcheck disable=SC2016 # expanded on each node, not here
launcher='
    exec {_TORCHRUN}
'
"""

_WAIT = """\
while :; do
    seen=$signals status=0
    wait "$child" || status=$?
    [ "$signals" -ne "$seen" ] || break
done"""

# Indented as the rest of the launcher is.
_SIGNALLED_LAUNCHER = f"""\
# Slurm signals every process of a step, and SIGUSR1 would end those that do not expect it: torchrun, helpers
# that write a checkpoint. So the steps get SIGURG, which is ignored unless asked for, and the shell around
# torchrun makes SIGUSR1 of it for torchrun's workers alone, who ignore that until they set up their handlers.
# `wait` returns early for a signal: only one that saw none has the exit status.
# shellcheck disable=SC2016 # expanded on each node, not here
launcher='
    trap "" USR1
    {_TORCHRUN} &
    child=$! signals=0
    hand_on() {{
        signals=$((signals + 1))
        kill -s USR1 $(cat "/proc/$child/task/"*/children) || true
    }}
    trap hand_on URG
    {_WAIT.replace(chr(10), chr(10) + "    ")}
    exit "$status"
'

signals=0
# shellcheck disable=SC2317 # called by the trap
hand_on() {{
    signals=$((signals + 1))
    scancel --signal=URG "$SLURM_JOB_ID" # the steps of the job, without this shell
}}
trap hand_on USR1
"""

_SIGNALLED_ENDING = f""""$@" &
child=$!
{_WAIT}
"""

_REQUEUE = """\
# A run that stopped for the signal goes back to the queue; one that failed does not.
if ((signals > 0 && status == 0 && ${SLURM_RESTART_COUNT:-0} < {{max_requeues}})); then
    scontrol requeue "$SLURM_JOB_ID"
fi
"""


def render_sbatch(job: SlurmJob) -> str:
    """The sbatch script of `job`, ready to be written to a file and submitted."""
    signalled = job.signal_lead_seconds > 0
    ending = '"$@"\n'
    if signalled:
        ending = _SIGNALLED_ENDING + (_REQUEUE if job.requeue else "") + 'exit "$status"\n'
    text = _TEMPLATE.replace("{{ending}}", ending)
    return _fill(
        text,
        directives="\n".join(f"#SBATCH {directive}" for directive in directives(job)),
        launcher=_SIGNALLED_LAUNCHER if signalled else _PLAIN_LAUNCHER,
        image=shlex.quote(job.container_image),
        mounts=shlex.quote(",".join(job.container_mounts)),
        gpus=str(job.gpus_per_node),
        # Since Slurm 22.05 srun no longer takes this from the allocation.
        cpus="" if job.cpus_per_node is None else f"--cpus-per-task={job.cpus_per_node} ",
        workdir=shlex.quote(job.container_workdir),
        entry_point=shlex.quote(job.entry_point),
        results=shlex.quote(job.results_folder),
        arguments="".join(f"{shlex.quote(argument)} " for argument in job.arguments),
        max_requeues=str(job.max_requeues),
    )


def directives(job: SlurmJob) -> list[str]:
    """The options for sbatch that stand at the top of the script, in order, without `#SBATCH`."""
    options = [
        f"--job-name={job.job_name}",
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",
        f"--gpus-per-node={job.gpus_per_node}",
        f"--time={job.time}",
        f"--output={job.log_file}",
        "--open-mode=append",
        "--requeue" if job.requeue else "--no-requeue",
    ]
    if job.cpus_per_node is not None:
        options.append(f"--cpus-per-task={job.cpus_per_node}")
    if job.exclusive:
        options += ["--exclusive", "--mem=0"]
    if job.partition is not None:
        options.append(f"--partition={job.partition}")
    if job.account is not None:
        options.append(f"--account={job.account}")
    if job.signal_lead_seconds:
        # B: the batch shell alone gets it, and sees to the rest.
        options.append(f"--signal=B:USR1@{job.signal_lead_seconds}")
    return options


def _fill(text: str, **values: str) -> str:
    # One pass, so that a value that looks like a placeholder is left as it is.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], text)
