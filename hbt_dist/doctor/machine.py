"""Check Python, packages, devices, disk, the hub and the collectives of this machine."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

from hbt_dist.common.environment import installed_version
from hbt_dist.common.errors import first_line, last_line
from hbt_dist.doctor.verdict import Level, Verdict
from hbt_dist.run_file import RunFile

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
FLAVOURS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cuvs")
LOW_DISK_GIB, NO_DISK_GIB = 10.0, 1.0
COLLECTIVE_SECONDS = 240.0
# The oldest driver on Linux for each CUDA, in NVIDIA's notes on compatibility of minor versions.
_LEAST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
_BUILDS = "https://pytorch.org/get-started/locally"
_VISIBLE = "correct CUDA_VISIBLE_DEVICES; in a container pass the GPUs on (docker run --gpus all)"
_DRIVER_ONLY = "fine if this machine only drives a cluster with GPUs"


def tested_versions() -> dict[str, str]:
    """Return name -> version of the packages in the constraints file, which are tested together."""
    lines = (line.split("#")[0].strip() for line in CONSTRAINTS.read_text("utf-8").splitlines())
    return dict(line.split("==") for line in lines if line)


def check_python(_: RunFile | None) -> Iterator[Verdict]:
    """Check the interpreter and the operating system."""
    finding = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    linux = sys.platform == "linux"
    yield Verdict("ok", finding) if linux else Verdict("warning", finding, "only Linux is tested")


def check_packages(_: RunFile | None) -> Iterator[Verdict]:
    """Compare the installed packages with the requirements and with the tested versions."""
    tested = tested_versions()
    required = [Requirement(text) for text in metadata.requires("hbt-dist") or []]
    required = [req for req in required if req.marker is None or req.marker.evaluate({"extra": ""})]
    differences = [verdict for req in required if (verdict := _compare(req, tested.get(req.name)))]
    fine = Verdict("ok", f"{len(required)} packages, in the versions that are tested together")
    yield from differences or [fine]


def _compare(requirement: Requirement, tested: str | None) -> Verdict | None:
    """Compare one installed package; return None if its version is the tested one."""
    name, installed = requirement.name, installed_version(requirement.name)
    if installed is None:
        return Verdict("problem", f"{name} is not installed", f"pip install '{requirement}'")
    if not requirement.specifier.contains(installed, prereleases=True):
        remedy = f"pip install '{name}{f'=={tested}' if tested else requirement.specifier}'"
        return Verdict("problem", f"{name} {installed} is outside {requirement.specifier}", remedy)
    if tested and Version(installed).public != tested:
        remedy = f"pip install '{name}=={tested}' if something goes wrong"
        return Verdict("warning", f"{name} {installed}; tested with {tested}", remedy)
    return None


def check_accelerator(run: RunFile | None) -> Iterator[Verdict]:
    """Check that torch can use the GPUs of this machine."""
    import torch

    build, driver = f"torch {torch.__version__}", _nvidia_driver()
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        gpus = f"{torch.cuda.device_count()} x {', '.join(sorted(names))}"
        yield Verdict("ok", f"{build}, {gpus}, driver {driver}")
    elif driver is not None:
        finding = f"{build} sees no GPU, but there is an NVIDIA driver ({driver})"
        yield Verdict("problem", *(driver_problem(torch.version.cuda, driver) or (finding, _VISIBLE)))
    elif run is not None and run.workers.use_gpu is True:
        yield Verdict("warning", f"{build}, no GPU here, but workers.use_gpu is true", _DRIVER_ONLY)
    else:
        yield Verdict("ok", f"{build}, no GPU: training runs on CPUs")


def driver_problem(cuda: str | None, driver: str) -> tuple[str, str] | None:
    """Return problem and remedy if this driver cannot run torch's build, else None.

    Args:
        cuda: `torch.version.cuda`; None in a build without CUDA.
        driver: version of the NVIDIA driver.
    """
    if cuda is None:
        return f"torch is built without CUDA, but there is an NVIDIA driver ({driver})", (
            f"install torch's CUDA build: {_BUILDS}"
        )
    least = _LEAST_DRIVER.get(Version(cuda).major)
    if least is None or Version(driver) >= Version(least):
        return None
    fitting = [major for major, needed in _LEAST_DRIVER.items() if Version(driver) >= Version(needed)]
    build = f", or torch's build for CUDA {max(fitting)}: {_BUILDS}" if fitting else ""
    return (
        f"torch is built for CUDA {cuda}, which needs an NVIDIA driver of {least} or newer; "
        f"this machine has {driver}",
        f"install a newer driver{build}",
    )


def _nvidia_driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (subprocess.SubprocessError, OSError):
        return None
    return answer.stdout.strip().partition("\n")[0] or None


def check_precision(run: RunFile | None) -> Iterator[Verdict]:
    """Warn about a GPU that emulates bf16."""
    import torch

    from hbt_dist.training.deepspeed.settings import DeepSpeedSettings, resolve_deepspeed
    from hbt_dist.training.deepspeed.setup import emulated_bf16

    if torch.cuda.is_available():
        settings = DeepSpeedSettings() if run is None else run.deepspeed
        deepspeed = resolve_deepspeed(settings, gradient_clipping=1.0)
        if emulated := emulated_bf16(deepspeed, torch.device("cuda")):
            yield Verdict("warning", *emulated)


def check_deepspeed(run: RunFile | None) -> Iterator[Verdict]:
    """Import DeepSpeed and check the run's DeepSpeed configuration."""
    if not list(Path("/dev").glob("nvidia[0-9]*")):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    began = time.monotonic()
    from deepspeed import DeepSpeedEngine

    seconds = time.monotonic() - began
    if not hasattr(DeepSpeedEngine, "coalesce_grad_reduction"):
        yield Verdict(
            "problem",
            "has no coalesce_grad_reduction: several chunks per step would give wrong gradients",
            f"pip install deepspeed=={tested_versions()['deepspeed']}",
        )
        return
    if run is not None:
        from hbt_dist.training.deepspeed.settings import resolve_deepspeed
        from hbt_dist.training.deepspeed.setup import check_with_deepspeed

        clipping = run.optimizer.gradient_clipping
        check_with_deepspeed(resolve_deepspeed(run.deepspeed, gradient_clipping=clipping))
    compiler = "no compiler is needed" if shutil.which("g++") is None else "nothing is compiled"
    yield Verdict("ok", f"{metadata.version('deepspeed')} imported in {seconds:.0f} s; {compiler}")


def check_kernel(run: RunFile | None) -> Iterator[Verdict]:
    """Check that the device of this machine can use the run's `loss.kernel`."""
    if run is None:
        return
    import torch

    from hbt_dist.contrastive.row_losses import why_not

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reason = why_not(run.loss.kernel, device)
    if reason is None:
        yield Verdict("ok", f"{run.loss.kernel} on {device.type}")
    elif run.workers.use_gpu is True and device.type == "cpu":
        yield Verdict("warning", f"{run.loss.kernel} {reason}", _DRIVER_ONLY)
    else:
        yield Verdict("problem", f"{run.loss.kernel} {reason}", "set loss.kernel to auto or rows")


def check_faiss(_: RunFile | None) -> Iterator[Verdict]:
    """Check that at most one flavour of faiss is installed and that it can be imported."""
    versions = {name: version for name in FLAVOURS if (version := installed_version(name))}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    if not versions:
        remedy = "pip install 'hbt-dist[cpu]' (or [gpu]) for exported search indexes"
        yield Verdict("warning", "not installed; training and evaluation do not need it", remedy)
        return
    if len(versions) > 1:
        remedy = f"pip uninstall {' '.join(versions)}, then install one of hbt-dist[cpu], hbt-dist[gpu]"
        yield Verdict("problem", f"{listed} overwrite each other", remedy)
        return
    probe = subprocess.run(
        [sys.executable, "-c", "import faiss"], capture_output=True, text=True, timeout=120, check=False
    )
    if probe.returncode:
        remedy = "install the libraries that the message names, or hbt-dist[cpu]"
        yield Verdict("problem", f"{listed} cannot be imported: {last_line(probe.stderr)[:300]}", remedy)
    else:
        yield Verdict("ok", listed)


def check_disk(run: RunFile | None) -> Iterator[Verdict]:
    """Check permissions and free space of the folders, and the size of /dev/shm."""
    folders = {"temporary files": Path(tempfile.gettempdir())}
    if run is None:
        folders["this folder"] = Path.cwd()
    else:
        folders |= {"output_dir": Path(run.output_dir), "data.cache_dir": Path(run.data.cache_dir)}
    for name, folder in folders.items():
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not os.access(existing, os.W_OK):
            yield Verdict("problem", f"{name} {existing} cannot be written", "choose a different folder")
            continue
        free = shutil.disk_usage(existing).free / 1024**3
        level: Level = "problem" if free < NO_DISK_GIB else "warning" if free < LOW_DISK_GIB else "ok"
        remedy = "" if level == "ok" else "free space: a checkpoint takes about 12 bytes per parameter"
        yield Verdict(level, f"{name} {folder}: {free:,.1f} GiB free", remedy)
    shm = Path("/dev/shm")
    if shm.is_dir() and (size := shutil.disk_usage(shm).total / 1024**3) < 1:
        remedy = "start the container with --shm-size=8g or more (Kubernetes: a memory emptyDir)"
        yield Verdict("warning", f"/dev/shm has {size:.2f} GiB: Ray falls back to disk", remedy)


def check_hub(_: RunFile | None) -> Iterator[Verdict]:
    """Check that the Hugging Face hub answers, unless the process is offline."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        yield Verdict("ok", "HF_HUB_OFFLINE is set: models and data must be local or in the cache")
        return
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        with urllib.request.urlopen(request, timeout=8):
            yield Verdict("ok", f"{constants.ENDPOINT} answers")
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = first_line(str(getattr(error, "reason", error)))
        remedy = "use local folders for models and data, and export HF_HUB_OFFLINE=1 to avoid waiting"
        yield Verdict("warning", f"{constants.ENDPOINT} does not answer ({reason})", remedy)


def check_collectives(run: RunFile | None) -> Iterator[Verdict]:
    """Start two processes: all-reduce, then the gradient self-check with the run's engine settings."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    num_processes = min(2, gpus or 2)
    backend = "NCCL" if gpus else "gloo"
    with tempfile.TemporaryDirectory(prefix="hbt-doctor-") as folder:
        engine = run.deepspeed.model_dump(mode="json") if run else {"config": 1}
        (Path(folder) / "engine.json").write_text(json.dumps(engine), "utf-8")
        answer = _run_ranks(num_processes, Path(folder))
    if isinstance(answer, str):
        variable = "NCCL_DEBUG=INFO" if gpus else "GLOO_SOCKET_IFNAME (an existing interface, such as lo)"
        remedy = f"{backend} between processes of one machine fails: check the firewall and set {variable}"
        yield Verdict("problem", answer, remedy, "all-reduce")
        return
    seconds = f"{answer['seconds']:.1f} s"
    yield Verdict("ok", f"{backend}, {num_processes} processes, {seconds}", check="all-reduce")
    errors = f"{answer['engine']}: error {answer['gradient_error']:.1e} (at most {answer['tolerance']:.0e})"
    if answer["passed"]:
        yield Verdict("ok", f"equal to that of one process; {errors}", check="gradient")
    else:
        remedy = "do not train here; install the tested versions (constraints.txt)"
        yield Verdict("problem", f"differs from that of one process; {errors}", remedy, "gradient")


def _run_ranks(num_processes: int, folder: Path) -> dict[str, Any] | str:
    """Start `hbt_dist.doctor.rank` on every rank; return the answer of rank 0, or why there is none."""
    from hbt_dist.orchestration.private_cluster import free_port

    shared = {
        **os.environ,
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    processes = []
    for rank in range(num_processes):
        command = [sys.executable, "-m", "hbt_dist.doctor.rank", str(folder)]
        env = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        with (folder / f"log-{rank}.txt").open("wb") as log:
            processes.append(subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT))
    deadline = time.monotonic() + COLLECTIVE_SECONDS
    codes: list[int | None] = [None]
    try:
        while None in codes and not any(codes) and time.monotonic() < deadline:
            time.sleep(0.1)
            codes = [process.poll() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for rank, code in enumerate(codes):
        if code:
            log_text = (folder / f"log-{rank}.txt").read_text("utf-8", errors="replace")
            return f"rank {rank} failed: {last_line(log_text)[:300] or 'no message'}"
    if None in codes:
        late = [rank for rank, code in enumerate(codes) if code is None]
        return f"ranks {late} gave no answer within {COLLECTIVE_SECONDS:.0f} s"
    answer: dict[str, Any] = json.loads((folder / "answer.json").read_text("utf-8"))
    return answer
