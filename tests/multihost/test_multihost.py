"""Several hosts: `ray up` and `ray submit` over ssh, the deepspeed launcher over pdsh, a host that drops out.

The hosts are namespaces of this machine (hosts.py) with own addresses, sshd, home folders and processes; they
share /mnt. Without root, or without the programs, the tests are skipped with the reason.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.runs import losses, tiny_run, weights_digest, write_run
from tests.multihost.hosts import VENV, Hosts, missing

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["desk", "head", "worker-1", "worker-2"]
CLUSTER = "/mnt/cluster.yaml"
GIVE_UP_SECONDS = 300  # from the cut to the first step after the restart, on a busy machine

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(900),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with Hosts(tmp_path_factory.mktemp("hosts"), NAMES) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def cluster(hosts: Hosts) -> Iterator[Hosts]:
    """The hosts with a Ray cluster that `ray up` has made from the desk; one CPU per host."""
    config = yaml.safe_load((ROOT / "ray_configs" / "on_premises.yaml").read_text("utf-8"))
    config["auth"]["ssh_user"] = "root"
    config["setup_commands"][0] = f"ln -sfn {VENV} ~/hbt_dist_venv"  # instead of installing for minutes
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        start = config[commands][1] + " --num-cpus=1 --object-store-memory=100000000"
        # Ray gives a node 30 s to start, which a busy machine may not keep.
        config[commands][1] = f"for i in 1 2 3 4; do ({start}) && break; ray stop --force; done"
    (hosts.shared / "cluster.yaml").write_text(yaml.safe_dump(config), "utf-8")
    at_desk(hosts, f"ray up --yes --no-config-cache {CLUSTER}")
    wait_for(lambda: " 3 local.cluster.node" in hosts.run("head", ["ray", "status"])[1], 300, "no 3 hosts")
    yield hosts
    at_desk(hosts, f"ray down --yes {CLUSTER}")
    # A host that was cut off is no longer Ray's to stop; its raylet gives up when the head does not answer.
    wait_for(lambda: hosts.processes("worker-2", "raylet") == 0, 180, "a raylet is left")


def at_desk(hosts: Hosts, command: str, timeout: float = 400) -> str:
    return hosts.run("desk", ["bash", "-c", f"cd {ROOT} && {command}"], timeout=timeout)[1]


def submit(hosts: Hosts, script: str, arguments: str) -> str:
    return at_desk(hosts, f"ray submit --no-config-cache {CLUSTER} launchers/{script} -- {arguments}")


def run_on_hosts(hosts: Hosts, name: str, **changes: Any) -> str:
    """Write a run file that all hosts see; its outputs lie in /mnt/NAME."""
    changes = {"workers__placement": "STRICT_SPREAD", **changes}
    run = tiny_run(Path("/mnt", name), Path("/mnt/cache"), **changes)
    del run["workers"]["address"]
    write_run(hosts.shared / f"{name}.yaml", run)
    return f"/mnt/{name}.yaml"


def test_ray_submit_trains_and_evaluates_on_several_hosts(cluster: Hosts) -> None:
    out = submit(cluster, "train.py", run_on_hosts(cluster, "ray"))
    addresses = set(re.findall(r"\(ip=(192\.0\.2\.\d+), pid=\d+\) world_rank", out))
    assert len(addresses) == 2, out[-3000:]
    assert len(losses(cluster.shared / "ray")) == 6
    arguments = "--model /mnt/ray/model --benchmark sample --languages en,fi --actors 3 --quiet"
    submit(
        cluster, "evaluate.py", f"{arguments} --output /mnt/evaluation --set cache_dir=/mnt/embeddings"
    )  # one CPU per host and per actor: three actors are on three hosts
    command = f"hbt-dist evaluate {arguments.replace('--actors 3', '')} --output /mnt/evaluation-1"
    cluster.run("head", ["bash", "-c", f"cd /mnt && {command}"], timeout=200)
    several, one = (
        json.loads((cluster.shared / name / "results.json").read_text("utf-8"))
        for name in ("evaluation", "evaluation-1")
    )
    assert several["means"] == one["means"]


def test_doctor_examines_every_host(cluster: Hosts) -> None:
    run = run_on_hosts(cluster, "doctor")
    _, out = cluster.run("head", ["hbt-dist", "doctor", "--run", run, "--json"], timeout=300)
    verdicts = json.loads(out[out.index("{") :])["verdicts"]
    found = [verdict["found"] for verdict in verdicts if verdict["check"] == "ray"]
    assert "output_dir /mnt/doctor is one folder for 3 nodes" in found
    assert "all-reduce over 3 nodes (gloo)" in found
    assert not (cluster.shared / "doctor").exists()


def test_a_folder_that_is_not_shared_is_refused(cluster: Hosts) -> None:
    run = run_on_hosts(cluster, "private", output_dir="/home/root/private")
    code, out = cluster.run("head", ["python", ROOT / "launchers/train.py", run], check=False, timeout=300)
    assert code == 2, out
    assert "output_dir /home/root/private: is not the same folder on every node" in out
    assert "worker-1 (192.0.2.11): absent" in out
    assert "Traceback" not in out


@pytest.mark.skipif(shutil.which("pdsh") is None, reason="pdsh is not installed")
def test_deepspeed_hostfile_gives_the_losses_of_one_host(hosts: Hosts) -> None:
    (hosts.shared / "hosts.txt").write_text("worker-1 slots=1\nworker-2 slots=1\n")
    options = "--master_addr 192.0.2.11 --master_port 29511"
    environment = "export DS_ACCELERATOR=cpu OMP_NUM_THREADS=1"
    script = ROOT / "launchers" / "deepspeed.sh"
    several, one = run_on_hosts(hosts, "two-hosts"), run_on_hosts(hosts, "one-host")
    prefix = f"cd /mnt && {environment}"
    command = f"HOSTFILE=/mnt/hosts.txt DEEPSPEED_OPTIONS='{options}' {script} {several}"
    hosts.run("head", ["bash", "-c", f"{prefix} && {command}"], timeout=400)
    # Training a tokenizer breaks ties in no fixed order: both runs must start from one model.
    shutil.copytree(hosts.shared / "two-hosts/start", hosts.shared / "one-host/start")
    hosts.run("head", ["bash", "-c", f"{prefix} && {script} 2 {one}"], timeout=400)
    hosts_of_run = json.loads((hosts.shared / "two-hosts/provenance.json").read_text("utf-8"))
    assert hosts_of_run[0]["host"] == "worker-1"
    assert losses(hosts.shared / "two-hosts") == losses(hosts.shared / "one-host")
    assert weights_digest(hosts.shared / "two-hosts") == weights_digest(hosts.shared / "one-host")


def test_training_survives_a_host_that_drops_out(cluster: Hosts) -> None:
    """The last test: one host is gone afterwards."""
    run = run_on_hosts(cluster, "cut", training__steps=100_000, training__checkpoint_every=50)
    driver = cluster.start("head", ["python", ROOT / "launchers/train.py", run])
    folder = cluster.shared / "cut"
    wait_for(lambda: list(folder.glob("checkpoints/step-*[0-9]")), 240, "no checkpoint")
    victim = next(name for name in ("worker-1", "worker-2") if cluster.processes(name, "RayTrainWorker"))
    cluster.unplug(victim)
    try:
        wait_for(lambda: "continuing from" in (folder / "log.txt").read_text(), GIVE_UP_SECONDS, "no restart")
        size = (folder / "metrics.jsonl").stat().st_size
        wait_for(lambda: (folder / "metrics.jsonl").stat().st_size > size, 60, "no step after the restart")
        survivor = "worker-1" if victim == "worker-2" else "worker-2"
        assert cluster.processes(survivor, "RayTrainWorker") == 1
    finally:
        os.killpg(driver.pid, signal.SIGKILL)  # nsenter has started the driver, and would leave it alone
        out, _ = driver.communicate()
        sys.stdout.write(out[-4000:])
        cluster.plug(victim)


def wait_for(condition: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} within {seconds:.0f} s"
        time.sleep(0.5)
