"""What a cluster must have before a run starts on it, and what is said if it has not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.config import user_functions as extensions
from hbt_dist.orchestration import cluster as module
from hbt_dist.orchestration.cluster import Cluster, check_resources, connect
from hbt_dist.orchestration.settings import WorkerSettings

GIB = 1024**3
TWO_NODES = Cluster("x:1", False, 4, 0, ({"CPU": 2, "memory": 8 * GIB}, {"CPU": 2, "memory": 8 * GIB}))
FOUR_GPUS = Cluster("x:1", False, 8, 4, ({"CPU": 4, "GPU": 4, "memory": 64 * GIB}, {"CPU": 4}))


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (
            {"num_workers": 5},
            r"5 workers x \(1 CPU\) are requested, the cluster at x:1 has 4 CPU and 0 GPU \(2 nodes",
        ),
        ({"num_workers": 2, "use_gpu": True}, r"2 workers x \(1 CPU \+ 1 GPU\) are requested"),
        (
            {"num_workers": 2, "cpus_per_worker": 1.5, "placement": "STRICT_PACK"},
            "needs one node that holds all",
        ),
        ({"num_workers": 3, "placement": "STRICT_SPREAD"}, "needs 3 nodes that hold one worker each"),
        ({"num_workers": 3, "cpus_per_worker": 1.3}, "only 2 fit on single nodes"),
        ({"num_workers": 1, "memory_gib_per_worker": 9}, "only 0 fit on single nodes"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], found: str) -> None:
    with pytest.raises(UserError, match=found) as refused:
        check_resources(TWO_NODES, WorkerSettings(**settings))
    assert "add nodes" in refused.value.remedy


def test_what_fits_is_accepted() -> None:
    assert check_resources(TWO_NODES, WorkerSettings(num_workers=4)) is False
    assert check_resources(TWO_NODES, WorkerSettings(num_workers=2, placement="STRICT_SPREAD")) is False
    assert check_resources(FOUR_GPUS, WorkerSettings(num_workers=4)) is True
    assert check_resources(FOUR_GPUS, WorkerSettings(num_workers=5, use_gpu=False)) is False


def test_auto_does_not_fall_back_to_cpus_where_there_are_gpus() -> None:
    """One of two nodes has joined: training on CPUs would be hundreds of times slower, and say nothing."""
    with pytest.raises(UserError, match=r"5 workers x \(1 CPU \+ 1 GPU\) are requested") as refused:
        check_resources(FOUR_GPUS, WorkerSettings(num_workers=5))
    assert "workers.use_gpu: false" in refused.value.remedy


def test_a_cluster_that_grows_is_judged_by_what_it_may_become() -> None:
    head_only = Cluster("x:1", False, 0, 0, ({"TRAIN_DRIVER_RESOURCE": 1},), {"CPU": 96, "GPU": 8})
    assert check_resources(head_only, WorkerSettings(num_workers=8)) is True
    with pytest.raises(UserError, match="9 workers"):
        check_resources(head_only, WorkerSettings(num_workers=9))
    with pytest.raises(UserError, match="9 workers"):
        check_resources(head_only, WorkerSettings(num_workers=9, use_gpu=True))


@pytest.mark.parametrize(
    ("address", "found"), [("127.0.0.1:9", "does not answer"), ("ray://head:10001", "is not host:port")]
)
def test_an_address_without_a_cluster_is_refused_at_once(address: str, found: str) -> None:
    with pytest.raises(UserError, match=found), connect(WorkerSettings(address=address)):
        pass


def test_what_the_network_and_the_hub_need_reaches_the_workers_but_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed = (
        *("NCCL_IB_HCA", "FI_PROVIDER", "UCX_TLS", "TORCH_NCCL_TRACE_BUFFER_SIZE", "HF_DATASETS_CACHE"),
        *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "TORCH_CUDNN_SDPA_DEPRIORITIZED"),
        *("CUDA_DEVICE_MAX_CONNECTIONS", "CUBLAS_WORKSPACE_CONFIG", "TRITON_CACHE_DIR"),
        *("TORCH_EXTENSIONS_DIR", "TORCHINDUCTOR_CACHE_DIR", "NVIDIA_TF32_OVERRIDE"),
    )
    kept = (
        *("HF_TOKEN", "HF_OTHER_TOKEN", "WANDB_API_KEY", "PATH"),
        *("CUDA_VISIBLE_DEVICES", "CUDA_HOME", "CUDA_MPS_PIPE_DIRECTORY", "NVIDIA_VISIBLE_DEVICES"),
    )
    for name in (*passed, *kept):
        monkeypatch.setenv(name, "x")
    found = module._runtime_environment()["env_vars"]
    assert [name for name in passed if name not in found] == []
    assert [name for name in kept if name in found] == []


def test_the_package_goes_along_from_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/models")
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setattr(extensions, "_loaded", {})  # other tests have loaded modules of their own
    alone = module._runtime_environment()
    assert [path.rpartition("/")[2] for path in alone["py_modules"]] == ["hbt_dist"]
    assert alone["env_vars"]["HF_HOME"] == "/models"
    job = {"runtime_env": {"working_dir": "gcs://x.zip", "env_vars": {"HF_HOME": "/models"}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    inside = module._runtime_environment()
    assert "py_modules" not in inside, "the job has brought the checkout"
    assert "HF_HOME" not in inside["env_vars"], "Ray refuses a variable that job and driver set"
