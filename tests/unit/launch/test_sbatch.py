"""The rendered script, as text, to shellcheck, and run by bash with stand-ins for Slurm's commands."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_pi.launch import SlurmJob, render_sbatch

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = ROOT / "examples" / "slurm" / "extend_context.sbatch"

JOBS = {
    "defaults": SlurmJob(),
    "one node": SlurmJob(nodes=1, gpus_per_node=1),
    "no signal": SlurmJob(signal_lead_seconds=0),
    "no requeue": SlurmJob(requeue=False),
    "everything": SlurmJob(
        cpus_per_node=64,
        partition="gpu",
        account="lab",
        time="1-00",
        exclusive=False,
        container_mounts=("/a$b:/x", "/r:/results:rw"),
        arguments=("model=llama-7b", "model.data.data_prefix=[.5,/a,.5,/b]", "++name='it{{image}}s'"),
    ),
}


def test_reference_file_is_what_the_defaults_render() -> None:
    fix = "python examples/slurm/render.py > examples/slurm/extend_context.sbatch"
    assert REFERENCE.read_text() == render_sbatch(SlurmJob()), f"to fix: {fix}"


@pytest.mark.parametrize("job", JOBS.values(), ids=list(JOBS))
def test_no_placeholder_is_left(job: SlurmJob) -> None:
    # The one that is left was given as a value, and is not ours to fill.
    assert set(re.findall(r"\{\{\w+\}\}", render_sbatch(job))) <= {"{{image}}"}
    assert ("{{image}}" in render_sbatch(job)) == (job == JOBS["everything"])


@pytest.mark.parametrize("job", JOBS.values(), ids=list(JOBS))
def test_shell_accepts_it(job: SlurmJob, tmp_path: Path) -> None:
    script = tmp_path / "job.sbatch"
    script.write_text(render_sbatch(job))
    subprocess.run(["bash", "-n", str(script)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--severity=warning", str(script)], check=True)


def options(job: SlurmJob) -> dict[str, str]:
    """What stands at the top of the script for sbatch: option → value."""
    lines = [line.split(" ", 1)[1] for line in render_sbatch(job).splitlines() if line.startswith("#SBATCH ")]
    pairs = [line.partition("=") for line in lines]
    assert len({pair[0] for pair in pairs}) == len(pairs)
    return {option: value for option, _, value in pairs}


def test_options_for_sbatch() -> None:
    assert options(SlurmJob()) == {
        "--job-name": "nemo_pi",
        "--nodes": "2",
        "--ntasks-per-node": "1",
        "--gpus-per-node": "8",
        "--time": "04:00:00",
        "--output": "%x-%j.out",
        "--open-mode": "append",
        "--requeue": "",
        "--exclusive": "",
        "--mem": "0",
        "--signal": "B:USR1@300",
    }
    everything = options(JOBS["everything"])
    assert everything["--partition"] == "gpu" and everything["--account"] == "lab"
    assert everything["--cpus-per-task"] == "64" and "--exclusive" not in everything
    assert "--signal" not in options(JOBS["no signal"])
    assert "--no-requeue" in options(JOBS["no requeue"])


def test_options_stand_before_the_first_command() -> None:
    # sbatch stops reading its options there.
    lines = render_sbatch(JOBS["everything"]).splitlines()
    last_option = max(index for index, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in lines[: last_option + 1])


STAND_INS = {
    "scontrol": 'case $1 in show) echo node7; echo node8 ;; *) echo "$*" >> "$RECORD/scontrol" ;; esac',
    # As Slurm does, to every process of the step that has not left its tree; here the launcher and torchrun.
    "scancel": """
        echo "$*" >> "$RECORD/scancel"
        step=$(cat "$RECORD/step") name=${1#--signal=}
        kill -s "$name" "$step" $(cat /proc/"$step"/task/*/children)
    """,
    # What the real one does with its options is Slurm's affair; the rest runs here as the task of node 1.
    "srun": """
        echo $$ > "$RECORD/step"
        printf '%s\\n' "$@" > "$RECORD/srun"
        while [[ $1 == --* ]]; do shift; done
        SLURM_NODEID=1 exec "$@"
    """,
    "torchrun": """
        printf '%s\\n' "$@" > "$RECORD/torchrun"
        exec setsid --fork --wait "$PYTHON" "$RECORD/worker.py"
    """,
}

# In a session of its own, as torchrun's workers are.
WORKER = """
import os, pathlib, signal, sys, time

record, status = pathlib.Path(os.environ["RECORD"]), int(os.environ.get("WORKER_STATUS", 0))

def stop(*_):
    (record / "heard").write_text("heard")
    sys.exit(status)

if signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN:
    (record / "deaf").touch()
if "WAITS" in os.environ:
    signal.signal(signal.SIGUSR1, stop)
    (record / "ready").touch()
    time.sleep(120)
sys.exit(status)
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """An environment as in a batch shell on two nodes; its commands write what they were given to RECORD."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, body in STAND_INS.items():
        (commands / name).write_text(f"#!/bin/bash\n{body}\n")
        (commands / name).chmod(0o755)
    (tmp_path / "worker.py").write_text(WORKER)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "NEMO_PI_"))}
    return {
        **kept,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "RECORD": str(tmp_path),
        "PYTHON": sys.executable,
        "SLURM_JOB_ID": "123456",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_GPUS_ON_NODE": "4",
    }


def run(job: SlurmJob, cluster: dict[str, str], *arguments: str) -> Path:
    """Run the script to its end with bash; returns the folder of records."""
    script = Path(cluster["RECORD"]) / "job.sbatch"
    script.write_text(render_sbatch(job))
    subprocess.run(["bash", str(script), *arguments], env=cluster, check=True, timeout=120)
    return script.parent


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


@pytest.mark.parametrize("lead", [0, 300])
def test_what_torchrun_is_given(lead: int, cluster: dict[str, str]) -> None:
    job = SlurmJob(arguments=("model=llama-7b", "a=[1, 2]"), signal_lead_seconds=lead)
    assert lines_of(run(job, cluster, "name=it's", "++b=$HOME") / "torchrun") == [
        "--nnodes=2",
        "--node-rank=1",
        "--nproc-per-node=4",
        "--master-addr=node7",
        "--master-port=23456",
        "--max-restarts=0",
        "examples/extend_context.py",
        "trainer.num_nodes=2",
        "trainer.devices=4",
        "exp_manager.exp_dir=/results",
        "++exp_manager.resume_if_exists=true",
        "++exp_manager.resume_ignore_no_checkpoint=true",
        "model=llama-7b",
        "a=[1, 2]",
        "name=it's",
        "++b=$HOME",
    ]


def test_container(cluster: dict[str, str]) -> None:
    given = lines_of(run(SlurmJob(), cluster) / "srun")
    assert "--container-image=/shared/images/nemo_pi.sqsh" in given
    assert "--container-mounts=/shared/data:/data,/shared/results:/results" in given
    assert "--container-workdir=/opt/nemo_pi" in given
    assert "--ntasks-per-node=1" in given


def test_container_from_the_environment(cluster: dict[str, str]) -> None:
    chosen = {
        "NEMO_PI_IMAGE": "/my image.sqsh",
        "NEMO_PI_MOUNTS": "/x:/results",
        "NEMO_PI_MASTER_ADDR": "10.0.0.1",
    }
    folder = run(SlurmJob(), {**cluster, **chosen})
    given = lines_of(folder / "srun")
    assert "--container-image=/my image.sqsh" in given and "--container-mounts=/x:/results" in given
    assert "--master-addr=10.0.0.1" in lines_of(folder / "torchrun")


@pytest.mark.parametrize("lead", [0, 300])
def test_status_of_the_training_is_the_status_of_the_job(lead: int, cluster: dict[str, str]) -> None:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        run(SlurmJob(signal_lead_seconds=lead), {**cluster, "WORKER_STATUS": "3"})
    assert raised.value.returncode == 3


def run_signalled(job: SlurmJob, cluster: dict[str, str]) -> tuple[int, Path]:
    """Run the script, send its batch shell SIGUSR1 once the worker listens; its status and the records."""
    folder = Path(cluster["RECORD"])
    script = folder / "job.sbatch"
    script.write_text(render_sbatch(job))
    process = subprocess.Popen(["bash", str(script)], env={**cluster, "WAITS": "yes"})
    try:
        for _ in range(600):
            if (folder / "ready").exists():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGUSR1)  # to the batch shell alone, as --signal=B: does
        return process.wait(timeout=120), folder
    finally:
        process.kill()


def test_signal_reaches_the_worker_and_the_job_is_requeued(cluster: dict[str, str]) -> None:
    status, folder = run_signalled(SlurmJob(), cluster)
    assert status == 0
    assert lines_of(folder / "heard") == ["heard"]
    assert lines_of(folder / "scancel") == ["--signal=URG 123456"]
    assert lines_of(folder / "scontrol") == ["requeue 123456"]


@pytest.mark.parametrize(
    ("job", "environment"),
    [
        (SlurmJob(requeue=False), {}),
        (SlurmJob(max_requeues=3), {"SLURM_RESTART_COUNT": "3"}),
        (SlurmJob(), {"WORKER_STATUS": "5"}),  # failed while it saved
    ],
    ids=["requeue off", "often enough", "failed"],
)
def test_not_requeued(job: SlurmJob, environment: dict[str, str], cluster: dict[str, str]) -> None:
    status, folder = run_signalled(job, {**cluster, **environment})
    assert status == int(environment.get("WORKER_STATUS", 0))
    assert (folder / "heard").exists() and not (folder / "scontrol").exists()


def test_worker_ignores_the_signal_until_it_has_a_handler(cluster: dict[str, str]) -> None:
    assert (run(SlurmJob(), cluster) / "deaf").exists()


def test_finished_in_time_is_not_requeued(cluster: dict[str, str]) -> None:
    assert not (run(SlurmJob(), cluster) / "scontrol").exists()


def test_render_script_takes_every_field(tmp_path: Path) -> None:
    command = [
        *("python3", "-m", "examples.slurm.render", "--nodes", "4", "--no-requeue", "--cpus-per-node", "32"),
        *("--container-mount", "/a:/results", "--argument", "model=llama-7b", "--argument=++x=1"),
    ]
    given = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    job = SlurmJob(
        nodes=4,
        requeue=False,
        cpus_per_node=32,
        container_mounts=("/a:/results",),
        arguments=("model=llama-7b", "++x=1"),
    )
    assert given == render_sbatch(job)
    assert (
        "--log-file"
        in subprocess.run([*command[:3], "--help"], cwd=ROOT, capture_output=True, text=True).stdout
    )
