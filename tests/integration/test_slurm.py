"""The reference sbatch file on a real Slurm: two nodes, four gloo ranks, a signal, and the way back.

The file is submitted as it is. Only the entry point that lies in the working folder is another: a tiny
torch.distributed program, because what is to be shown here is the launch.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.slurm_cluster import GPUS_PER_NODE, SlurmCluster, why_not

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "examples" / "slurm" / "extend_context.sbatch"

pytestmark = pytest.mark.slow

PROGRAM = '''\
"""Adds up ranks over gloo; with wait=yes it then waits for SIGUSR1, unless the job was restarted."""
import json, os, signal, subprocess, sys, time
from pathlib import Path
import torch, torch.distributed as dist

dist.init_process_group("gloo")
rank, restarts = dist.get_rank(), int(os.environ.get("SLURM_RESTART_COUNT", 0))
total = torch.tensor(rank + 1)
dist.all_reduce(total)
heard = []
if "wait=yes" in sys.argv and not restarts:
    signal.signal(signal.SIGUSR1, lambda *_: heard.append("USR1"))
    # As a checkpoint's writers: a child that knows nothing of signals.
    helper = subprocess.Popen(["sleep", "60"])
    dist.barrier()
    Path("ready").touch()
    for _ in range(600):
        if heard:
            break
        time.sleep(0.1)
    time.sleep(0.5)
    heard.append("helper lives" if helper.poll() is None else "helper died")
    helper.kill()
record = dict(
    rank=rank, world=dist.get_world_size(), total=int(total), heard=heard, arguments=sys.argv[1:],
    local_rank=int(os.environ["LOCAL_RANK"]), node=os.environ["SLURMD_NODENAME"],
)
Path(f"rank{rank}.restart{restarts}.json").write_text(json.dumps(record))
dist.destroy_process_group()
'''


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    running = SlurmCluster(Path(tempfile.mkdtemp(prefix="slurm")))
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(running.folder, ignore_errors=True)


def submit(cluster: SlurmCluster, folder: Path, *arguments: str) -> str:
    """Submit the reference file to run PROGRAM in `folder`; the job's number."""
    entry_point = folder / "examples" / "extend_context.py"
    entry_point.parent.mkdir()
    entry_point.write_text(PROGRAM)
    job = cluster.command(
        *("sbatch", "--parsable", f"--gpus-per-node={GPUS_PER_NODE}", f"--chdir={folder}"),
        *(f"--output={folder}/log", str(REFERENCE), *arguments),
        # Both nodes are this host, whose names n1 and n2 nobody else can resolve.
        environment={"NEMO_PI_MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert job.isdigit(), "sbatch refused the reference file"
    return job


def end_of(cluster: SlurmCluster, job: str) -> str:
    """Wait for the job's end; the state it ended in."""
    states = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
    cluster.wait_for(lambda: cluster.job_field(job, "JobState") in states, f"the end of job {job}")
    return cluster.job_field(job, "JobState")


def records(folder: Path, restart: int) -> list[dict[str, object]]:
    """What the ranks wrote in the job's n-th restart, in rank order."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"rank*.restart{restart}.json"))]


def log(folder: Path) -> str:
    return (folder / "log").read_text() if (folder / "log").exists() else "no log"


def test_reference_file_runs_on_two_nodes(cluster: SlurmCluster, tmp_path: Path) -> None:
    (cluster.folder / "container").unlink(missing_ok=True)
    job = submit(cluster, tmp_path, "model.max_position_embeddings=32768", "name=with blank")
    assert end_of(cluster, job) == "COMPLETED", log(tmp_path)
    ranks = records(tmp_path, 0)
    assert [entry["rank"] for entry in ranks] == [0, 1, 2, 3]
    assert all(entry["world"] == 4 and entry["total"] == 1 + 2 + 3 + 4 for entry in ranks)
    # Ranks fill one node after the other, in Slurm's order of the nodes.
    assert [(entry["node"], entry["local_rank"]) for entry in ranks] == [
        ("n1", 0),
        ("n1", 1),
        ("n2", 0),
        ("n2", 1),
    ]
    assert all(
        entry["arguments"]
        == [
            "trainer.num_nodes=2",
            "trainer.devices=2",
            "exp_manager.exp_dir=/results",
            "++exp_manager.resume_if_exists=true",
            "++exp_manager.resume_ignore_no_checkpoint=true",
            "model.max_position_embeddings=32768",
            "name=with blank",
        ]
        for entry in ranks
    )
    assert (cluster.folder / "container").read_text().splitlines() == [
        "--container-image=/shared/images/nemo_pi.sqsh",
        "--container-mounts=/shared/data:/data,/shared/results:/results",
        "--container-workdir=/opt/nemo_pi",
    ]


def test_signalled_job_stops_requeues_and_comes_back(cluster: SlurmCluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, "wait=yes")
    cluster.wait_for((tmp_path / "ready").exists, "ranks that listen")
    # What --signal=B:USR1@300 does five minutes before the end.
    cluster.command("scancel", "--batch", "--signal=USR1", job)
    cluster.wait_for(lambda: cluster.job_field(job, "Restarts") == "1", f"the requeue\n{log(tmp_path)}")
    assert [entry["heard"] for entry in records(tmp_path, 0)] == [["USR1", "helper lives"]] * 4

    # Slurm holds a requeued job back for two minutes: not needed here. But within the second of the requeue
    # the nodes would take the job's new credential for the one they have just revoked.
    cluster.wait_for(lambda: cluster.job_field(job, "JobState") == "PENDING", "the pending job")
    cluster.command("scontrol", "update", f"JobId={job}", "StartTime=now+5")
    assert end_of(cluster, job) == "COMPLETED", log(tmp_path)
    assert [entry["total"] for entry in records(tmp_path, 1)] == [10] * 4
    assert cluster.job_field(job, "Restarts") == "1"
