"""Cluster files against Ray's own checks; manifests against what their readers require."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hbt_dist.doctor import machine

CONFIGS = Path(__file__).resolve().parents[2] / "ray_configs"
CLUSTERS = ["aws.yaml", "gcp.yaml", "on_premises.yaml", "single_machine.yaml"]
MANIFESTS = ["kuberay_train.yaml", "kuberay_evaluate.yaml"]
RAY_JOB = {  # fields of KubeRay's RayJobSpec that are used here
    *("submissionMode", "entrypoint", "entrypointResources", "runtimeEnvYAML", "backoffLimit"),
    *("activeDeadlineSeconds", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"),
}
POD_SPEC = {"containers", "volumes", "tolerations", "terminationGracePeriodSeconds", "nodeSelector"}
QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")


def load(name: str) -> Any:
    return yaml.safe_load((CONFIGS / name).read_text("utf-8"))


def ray_accepts(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(config))


@pytest.mark.parametrize("name", CLUSTERS)
def test_ray_accepts_cluster_files(name: str) -> None:
    ray_accepts(load(name))


def test_the_check_finds_unknown_keys() -> None:
    with pytest.raises(Exception, match="worker_node_typs"):
        ray_accepts(load("aws.yaml") | {"worker_node_typs": {}})


@pytest.mark.parametrize("name", CLUSTERS)
def test_cluster_files_ship_the_checkout_and_shadow_nothing(name: str) -> None:
    config = load(name)
    assert config["file_mounts"] == {"~/hbt_dist_checkout": "."}
    assert any("~/hbt_dist_checkout" in command and "pip" in command for command in config["setup_commands"])


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_clouds_keep_drivers_on_the_head_and_workers_on_spot(name: str) -> None:
    types = load(name)["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0, "TRAIN_DRIVER_RESOURCE": 1}
    assert "spot" not in json.dumps(types["head"]).lower()
    assert "spot" in json.dumps(types["gpu"]).lower()
    assert all(isinstance(amount, int) for amount in types["gpu"]["resources"].values())


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_files_say_how_to_run_them_and_what_to_change(path: Path) -> None:
    text = path.read_text("utf-8")
    header = text[: text.index("\n\n")]
    assert "Run me with" in header
    assert f"ray_configs/{path.name}" in header
    assert "CHANGE" in text


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_have_the_shape_of_a_rayjob(name: str) -> None:
    manifest = load(name)
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    spec = manifest["spec"]
    assert set(spec) <= RAY_JOB
    assert json.loads(spec["entrypointResources"]) == {"TRAIN_DRIVER_RESOURCE": 0.01}
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"] == machine.tested_versions()["ray"]
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert json.loads(json.loads(head["rayStartParams"]["resources"])) == {"TRAIN_DRIVER_RESOURCE": 1}
    for group in (head, *workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        check_pod(group["template"]["spec"])
    for group in workers:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def check_pod(pod: dict[str, Any]) -> None:
    """What Kubernetes requires of the parts of a pod that are used here."""
    assert set(pod) <= POD_SPEC
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
    for container in pod["containers"]:
        assert {"name", "image", "resources", "volumeMounts"} <= set(container)
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert all(isinstance(entry["value"], str) for entry in container.get("env", []))
        for amounts in container["resources"].values():
            assert all(QUANTITY.fullmatch(amount) for amount in amounts.values())
        drain = [entry for entry in container.get("env", []) if "DRAIN_TIMEOUT" in entry["name"]]
        assert all(int(entry["value"]) < pod["terminationGracePeriodSeconds"] for entry in drain)


def test_ray_accepts_the_runtime_environment() -> None:
    from ray.runtime_env import RuntimeEnv

    environment = RuntimeEnv(**load("runtime_env.yaml"))
    assert environment.working_dir() == "."
